// Puts the number of installed packages into the program.
const fs = require("node:fs");

const installed = Object.keys(require("../package-lock.json").packages).length - 1;
fs.mkdirSync("dist", { recursive: true });
fs.writeFileSync("dist/main.js", fs.readFileSync("src/main.js", "utf8").replace("INSTALLED", installed));
