// Records how docker/build-push-action reads its list inputs: with csv-parse, asked as its toolkit asks it (`getList` of
// docker/actions-toolkit, src/util.ts). `npm install csv-parse@6 && node record.js > lists.json`
const { parse } = require('csv-parse/sync');

// An input, whether commas part values, whether quotes mean anything, whether values are trimmed.
const cases = [
  ['', {}],
  ['a', {}],
  ['name/app:7.4, name/app:latest', {}],
  ['name/app:7.4\nname/app:latest', {}],
  ['name/app:7.4,name/app:latest\r\nname/app:edge', {}],
  ['"a,b",c', {}],
  ['"a,b"', {}],
  ['a,,b', {}],
  ['a\n\n\nb', {}],
  [' a \n b ', {}],
  ['MY_ARG=val1,val2,val3\nARG=val\n"MULTILINE=aaaa\nbbbb\nccc"', { ignoreComma: true }],
  ['"MULTILINE=aaaa\n\nbbbb\nccc"', { ignoreComma: true }],
  ['"with ""quotes"" inside"', { ignoreComma: true }],
  ['title=operation "filter results (top-n)"', { ignoreComma: true }],
  ['a="b,c",d', { ignoreComma: true }],
  ['"a"b,c', { ignoreComma: true }],
  ['"a" ,c', { ignoreComma: true }],
  ['FOO=bar#baz', { ignoreComma: true }],
  ['type=local,dest=./out', { ignoreComma: true }],
  ['type=local,"dest=a,b"', { ignoreComma: true }],
  ['type=image,"name=h/app:latest,h/app:foo",push=true\ntype=docker', { ignoreComma: true, quote: false }],
  ['.', { ignoreComma: true, quote: false }],
  ['KEY= value \nOTHER=x', { ignoreComma: true, trimWhitespace: false }],
  ['"KEY=line one\nline two\n"', { ignoreComma: true, trimWhitespace: false }],
  ['a\rb', {}],
  ['x\n   \ny', {}],
  ['é,日本', {}],
  ['"open', {}],
  ['a,"open\nb', { ignoreComma: true }],
];

function list(input, opts) {
  if (input === '') return [];
  const found = [];
  const records = parse(input, {
    columns: false,
    relaxQuotes: true,
    relaxColumnCount: true,
    skipEmptyLines: true,
    quote: opts.quote,
  });
  for (const record of records) {
    if (!opts.ignoreComma) found.push(...(record.length === 1 ? record[0].split(',') : record));
    else found.push(record.join(','));
  }
  return found.filter((item) => item).map((item) => (opts.trimWhitespace === false ? item : item.trim()));
}

const table = cases.map(([input, opts]) => {
  const row = { input, commas: !opts.ignoreComma, quotes: opts.quote !== false, trim: opts.trimWhitespace !== false };
  try {
    row.list = list(input, opts);
  } catch (error) {
    row.error = error.code;
  }
  return row;
});
console.log('[\n' + table.map((row) => '  ' + JSON.stringify(row)).join(',\n') + '\n]');
