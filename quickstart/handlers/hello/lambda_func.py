"""The function of OpenLambda's first years: the file is lambda_func.py, and in it handler(event).

$ curl -s -X POST localhost:8080/runLambda/hello -d '{"name": "Alice"}'
"Hello, Alice!"
"""


def handler(event):
    """Greet whoever is named."""
    name = event.get("name") if isinstance(event, dict) else None
    return f"Hello, {name or 'World'}!"
