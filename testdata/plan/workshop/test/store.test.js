const test = require('node:test');
const assert = require('node:assert');
const store = require('../src/store');

test('a new item is listed', () => {
  store.add({ id: 'x', text: 'try it' });
  assert.deepStrictEqual(store.list().map((item) => item.text), ['build an image', 'try it']);
});
