"""Take records from Kafka: each one is an event. Without Kafka it is called like any other function.

$ curl -s localhost:5000/run/kafka-basic -d '{"item": "tea", "n": 2}'
{"status": "ok"}

ol.yaml names the brokers and the topics. What it prints is in `ol admin logs kafka-basic`, and how its records fare in
`ol worker status`.
"""


def f(event):
    print("received", event)
    return {"status": "ok"}
