"""See where a record from Kafka stood: the headers of the request say it. Here a call pretends to be one.

$ curl -s localhost:5000/run/kafka-metadata -H 'X-Kafka-Topic: my-topic' -H 'X-Kafka-Partition: 0' -H 'X-Kafka-Offset: 7' -d '{"n": 1}'
{"topic": "my-topic", "partition": 0, "offset": 7, "group": null, "key": null, "event": {"n": 1}}

A record that this function fails with five times goes to the topic my-topic-dead.
"""

from urllib.parse import unquote_to_bytes


def f(event, context):
    headers = context.headers
    key = headers.get("x-kafka-key")
    return {
        "topic": headers.get("x-kafka-topic"),
        "partition": int(headers.get("x-kafka-partition", -1)),
        "offset": int(headers.get("x-kafka-offset", -1)),
        "group": headers.get("x-kafka-group-id"),
        "key": key and unquote_to_bytes(key).decode(errors="replace"),
        "event": event,
    }
