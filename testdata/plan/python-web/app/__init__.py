from flask import Flask, jsonify


def greeting(name):
    return f"Hello, {name.strip() or 'world'}!"


app = Flask(__name__)


@app.get("/hello/<name>")
def hello(name):
    return jsonify(message=greeting(name))
