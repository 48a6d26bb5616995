const { nanoid } = require("nanoid");

console.log(nanoid(8).length, "INSTALLED");
