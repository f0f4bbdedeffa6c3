"""Begin in another file, app.py, as Flask's own projects do: ol.yaml names it with OL_ENTRY_FILE.

$ curl -s localhost:5000/run/flask-entry-test/
hello from app.py
$ curl -s localhost:5000/run/flask-entry-test/info
/run/flask-entry-test/info
"""

from flask import Flask, url_for

app = Flask(__name__)


@app.route("/")
def index():
    return "hello from app.py\n"


@app.route("/info")
def info():
    return url_for("info") + "\n"
