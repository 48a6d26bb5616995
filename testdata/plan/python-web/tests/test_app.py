from app import app, greeting


def test_greeting():
    assert greeting("Ada ") == "Hello, Ada!"
    assert greeting(" ") == "Hello, world!"


def test_hello():
    answer = app.test_client().get("/hello/Ada")
    assert answer.get_json() == {"message": "Hello, Ada!"}
