"""Answer with Flask, which requirements.txt asks for.

$ curl -si localhost:5000/run/flask-test
HTTP/1.1 418 I'm a teapot
…
a: B
…
hi
"""

from flask import Flask

app = Flask(__name__)


@app.route("/")
def hi():
    return "hi\n", 418, {"A": "B"}
