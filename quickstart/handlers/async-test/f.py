"""Await, as an `async def`: three things at once take as long as one.

$ curl -s -X POST localhost:5000/run/async-test -d '["a", "b", "c"]'
["a", "b", "c"]
"""

import asyncio


async def f(event):
    return await asyncio.gather(*map(fetch, event))


async def fetch(thing):
    await asyncio.sleep(0.01)
    return thing
