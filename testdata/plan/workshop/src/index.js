// A list of things to do: GET /items lists them, POST /items adds the text in the body.
const http = require('node:http');
const { nanoid } = require('nanoid');
const store = require('./store');

const server = http.createServer((request, response) => {
  const answer = (status, body) => {
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body) + '\n');
  };
  if (request.url !== '/items') return answer(404, { error: 'not found' });
  if (request.method === 'GET') return answer(200, store.list());
  let text = '';
  request.on('data', (chunk) => { text += chunk; });
  request.on('end', () => answer(201, store.add({ id: nanoid(), text })));
});

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));
server.listen(Number(process.env.PORT), '127.0.0.1', () => {
  console.log(`listening on port ${server.address().port}`);
});
