// Wraps the lines of standard input at 40 columns.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

export function wrap(text, width) {
  const lines = [];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + word.length < width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  console.log(wrap(readFileSync(0, "utf8"), 40).join("\n"));
}
