"""Greet in the language that the caller prefers. The greetings lie in a file beside the code, and so does a module that reads the header.

$ curl -s localhost:5000/run/hello2 -H 'Accept-Language: de-AT, en;q=0.5' -d '{"name": "Alice"}'
"Guten Tag, Alice!"
$ curl -s localhost:5000/run/hello2 -H 'Accept-Language: tlh, fr;q=0.3, it;q=0.7' -d '{"name": "Alice"}'
"Buongiorno, Alice!"
$ curl -s localhost:5000/run/hello2
"Hello, World!"
"""

import json

from languages import preferred

# The working directory is the function's own. It is read once, and stays.
with open("greetings.json", encoding="utf-8") as file:
    GREETINGS = json.load(file)


def f(event, context):
    wanted = preferred(context.headers.get("accept-language", ""))
    greeting = next((GREETINGS[language] for language in wanted if language in GREETINGS), GREETINGS["en"])
    return greeting.format(event.get("name", "World"))
