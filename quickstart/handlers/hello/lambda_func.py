def handler(event):
    """Greet whoever is named: {"name": "Alice"} gives "Hello, Alice!"."""
    name = event.get("name") if isinstance(event, dict) else None
    return f"Hello, {name or 'World'}!"
