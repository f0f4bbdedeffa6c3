"""Begin in another file than f.py: ol.yaml names it with OL_ENTRY_FILE. This one has a WSGI app of two pages.

$ curl -s localhost:5000/run/entry-file/
hello from main.py
$ curl -s localhost:5000/run/entry-file/info
/run/entry-file serves /info
$ curl -s -o /dev/null -w '%{http_code}' localhost:5000/run/entry-file/elsewhere
404
"""


def app(environ, start_response):
    path = environ["PATH_INFO"]
    pages = {"/": "hello from main.py", "/info": f"{environ['SCRIPT_NAME']} serves {path}"}
    status = "200 OK" if path in pages else "404 Not Found"
    start_response(status, [("Content-Type", "text/plain")])
    return [pages.get(path, "no such page").encode() + b"\n"]
