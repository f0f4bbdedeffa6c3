"""Add up the numbers of Kafka's records in PostgreSQL, each exactly once, though records may come twice and transactions may fail.

$ curl -s localhost:5000/run/kafka-db-sum/
{"running_sum":…,"last_offset":…,"message_count":…,"offsets":{…}}
$ curl -s localhost:5000/run/kafka-db-sum/ -d '{"number": 5}'
{"error":"this is for records from Kafka: the header X-Kafka-Topic is missing"}
$ curl -s -X POST localhost:5000/run/kafka-db-sum/reset
{"running_sum":0,"last_offset":null,"message_count":0,"offsets":{}}

Each record, {"number": 5} for instance, is a POST to /. What it adds and the offset that is reached are one change of one row, so they
hold together or not at all, and a record whose offset was reached before changes nothing. A share of FAIL_PROBABILITY of the
transactions is broken off before the end; as with any other failure of the database, the answer then asks for the same record again.

ol.yaml says where the database is (DATABASE_URL), and with `network: outbound` that any machine is reached but the worker's own, by whatever
address. That suits a database on another machine, or in a network namespace or a virtual machine on this one. To reach one that simply runs
on the worker's machine takes `network: host`, which the worker's config.json has to allow (`"network_max": "host"`), for then the function
reaches all that the machine does, the worker included.
"""

import os
import random

import psycopg2
from flask import Flask, request

app = Flask(__name__)
app.json.sort_keys = False

FAIL_PROBABILITY = float(os.environ.get("FAIL_PROBABILITY", "0"))

# What waits in the database ends before the function's time does (30 s), and then comes again. A sandbox that was ended in the
# middle of a transaction may leave it open, and its row locked: the database does not wait for it any longer either.
LIMITS = "-c statement_timeout=10s -c idle_in_transaction_session_timeout=10s"

TABLE = """
CREATE TABLE IF NOT EXISTS kafka_db_sum (
    topic text, kafka_partition int, last_offset bigint NOT NULL, total numeric NOT NULL, n_records bigint NOT NULL,
    PRIMARY KEY (topic, kafka_partition)
)"""

# Changes nothing if the offset was reached before, and then returns no row.
COUNT = """
INSERT INTO kafka_db_sum AS reached VALUES (%s, %s, %s, %s, 1)
ON CONFLICT (topic, kafka_partition) DO UPDATE SET
    last_offset = excluded.last_offset, total = reached.total + excluded.total, n_records = reached.n_records + 1
WHERE reached.last_offset < excluded.last_offset
RETURNING total"""

database = None


def connection():
    """The one of this sandbox, which later calls find open."""
    global database
    if database is None or database.closed:
        opened = psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=5, options=LIMITS)
        with opened, opened.cursor() as cursor:
            # Two that make a table at the same time get in each other's way, even so: one after the other.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('kafka_db_sum'))")
            cursor.execute(TABLE)
        database = opened
    return database


class BrokenOff(Exception):
    """What FAIL_PROBABILITY stands for."""


@app.errorhandler(psycopg2.Error)
def no_database(error):
    return {"error": str(error)}, 500


def bad_request(text):
    return {"error": text}, 400


@app.post("/")
def count():
    for name in ("X-Kafka-Topic", "X-Kafka-Partition", "X-Kafka-Offset"):
        if name not in request.headers:
            return bad_request(f"this is for records from Kafka: the header {name} is missing")
    topic, partition, offset = (request.headers[f"X-Kafka-{name}"] for name in ("Topic", "Partition", "Offset"))
    if not (partition.isdecimal() and offset.isdecimal()):
        return bad_request("X-Kafka-Partition and X-Kafka-Offset are whole numbers")
    record = request.get_json(force=True, silent=True)
    number = record.get("number") if isinstance(record, dict) else None
    # True is an int as well, in Python.
    if type(number) is not int:
        # 4xx: the worker does not call again for it.
        return bad_request('a record is {"number": N} with a whole number N')
    try:
        with connection() as transaction, transaction.cursor() as cursor:
            cursor.execute(COUNT, (topic, partition, offset, number))
            is_new = cursor.fetchone() is not None
            if is_new and random.random() < FAIL_PROBABILITY:
                raise BrokenOff("broken off between UPDATE and COMMIT")
    except (psycopg2.Error, BrokenOff) as error:
        print(f"record {offset} of {topic}/{partition} is wanted again: {error}")
        return {"error": str(error)}, 500, {"X-Kafka-Seek-Offset": offset}
    return {"status": "counted" if is_new else "counted before"}


@app.get("/")
def show():
    with connection() as transaction, transaction.cursor() as cursor:
        cursor.execute("SELECT topic, kafka_partition, last_offset, total, n_records FROM kafka_db_sum ORDER BY 1, 2")
        rows = cursor.fetchall()
    return {
        "running_sum": int(sum(total for *_, total, _ in rows)),
        # Of the partition that is furthest; each has its own below.
        "last_offset": max((offset for _, _, offset, *_ in rows), default=None),
        "message_count": sum(n_records for *_, n_records in rows),
        "offsets": {f"{topic}/{partition}": offset for topic, partition, offset, *_ in rows},
    }


@app.post("/reset")
def reset():
    with connection() as transaction, transaction.cursor() as cursor:
        cursor.execute("TRUNCATE kafka_db_sum")
    return show()
