import { test } from "uvu";
import * as assert from "uvu/assert";
import { count } from "../src/words.js";

test("words count in any case", () => {
  assert.equal(count("To be or not to be"), { to: 2, be: 2, or: 1, not: 1 });
  assert.equal(count("…"), {});
});
test.run();
