"""Call the app as one likes: ol.yaml names the file with OL_ENTRY_FILE, and the app in it with OL_WSGI_ENTRY.

$ curl -s localhost:5000/run/wsgi-entry-test
hello from my_wsgi_app
"""


def my_wsgi_app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello from my_wsgi_app\n"]
