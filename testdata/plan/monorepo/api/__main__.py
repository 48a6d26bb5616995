import json
from http.server import BaseHTTPRequestHandler, HTTPServer

from lib.jobs import job


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(job(self.path.strip("/"), 1)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    HTTPServer(("", 8000), Handler).serve_forever()
