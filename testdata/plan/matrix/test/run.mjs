import assert from "node:assert";
import { wrap } from "../wrap.mjs";

assert.deepEqual(wrap("a bc  def", 4), ["a bc", "def"]);
assert.deepEqual(wrap("", 4), []);
console.log(`passed on ${process.version}`);
