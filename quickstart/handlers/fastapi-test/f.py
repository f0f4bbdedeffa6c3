"""Answer with FastAPI, which requirements.txt asks for. Its documentation is at /run/fastapi-test/docs.

$ curl -s localhost:5000/run/fastapi-test
{"hello":"world"}
$ curl -s localhost:5000/run/fastapi-test/items/5?q=x
{"item_id":5,"q":"x"}
$ curl -s -o /dev/null -w '%{http_code}' localhost:5000/run/fastapi-test/items/five
422
"""

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def index():
    return {"hello": "world"}


@app.get("/items/{item_id}")
async def item(item_id: int, q: str = ""):
    return {"item_id": item_id, "q": q}
