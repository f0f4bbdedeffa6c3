def f(event):
    """Give back what came."""
    return event
