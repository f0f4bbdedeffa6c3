"""Talk over a WebSocket. Open http://localhost:5000/run/websocket-test/ in a browser, and type; or with a client:
python -m websockets ws://localhost:5000/run/websocket-test/

$ curl -s localhost:5000/run/websocket-test/
<!doctype html>
…
$ curl -s -o /dev/null -w '%{http_code}' -H 'upgrade: websocket' -H 'connection: upgrade' localhost:5000/run/websocket-test/
400
"""

PAGE = b"""<!doctype html>
<title>websocket-test</title>
<input placeholder="say something" autofocus><pre></pre>
<script>
const socket = new WebSocket(location.href.replace("http", "ws"));
const [input, output] = [document.querySelector("input"), document.querySelector("pre")];
socket.onmessage = (event) => (output.textContent += event.data + "\\n");
socket.onclose = (event) => (output.textContent += "closed: " + event.code + "\\n");
input.onchange = () => { socket.send(input.value); input.value = ""; };
</script>
"""


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": PAGE})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": (message.get("text") or "").upper()})
    else:
        raise NotImplementedError(scope["type"])
