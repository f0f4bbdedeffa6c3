"""Sandboxes by hand, against a worker at OL_ADDRESS with server_mode sock, and a function at OL_CODE there."""

import asyncio
import os
import threading
import unittest
from typing import Any, List

from open_lambda import AsyncOpenLambda, HTTPError, NotSupported, OpenLambda

ADDRESS = os.environ["OL_ADDRESS"]
CODE = os.environ["OL_CODE"]


class PlainTest(unittest.TestCase):
    def setUp(self) -> None:
        self.ol = OpenLambda(ADDRESS)

    def test_the_life_of_a_sandbox(self) -> None:
        sandbox_id = self.ol.create({"code": CODE, "leaf": True, "parent": ""})
        self.assertTrue(sandbox_id.isdigit())
        self.ol.pause(sandbox_id)
        self.ol.unpause(sandbox_id)
        self.ol.destroy(sandbox_id)
        with self.assertRaises(HTTPError) as caught:
            self.ol.destroy(sandbox_id)
        self.assertEqual(caught.exception.status, 404)
        self.assertNotIsInstance(caught.exception, NotSupported)

    def test_churn_as_openlambda_measures_it(self) -> None:
        """The loop of OpenLambda's sock_test.py: a parent, idle ones, and many that come and go."""
        parent = self.ol.create({"code": "", "leaf": False})
        idle = [self.ol.create({"code": CODE, "leaf": True, "parent": parent}) for _ in range(4)]
        for sandbox_id in idle:
            self.ol.pause(sandbox_id)
        made: List[str] = []

        def churn() -> None:
            ol = OpenLambda(ADDRESS)
            for _ in range(5):
                sandbox_id = ol.create({"code": CODE, "leaf": True, "parent": parent})
                made.append(sandbox_id)
                ol.destroy(sandbox_id)

        threads = [threading.Thread(target=churn) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(set(made)), 25)
        self.assertGreaterEqual(self.ol.get_statistics()["Create().cnt"], 30)
        self.ol.destroy(parent)
        for sandbox_id in idle:
            self.assertRaises(HTTPError, self.ol.destroy, sandbox_id)


class AsyncTest(unittest.TestCase):
    def test_many_at_once(self) -> None:
        async def all_of_them() -> List[Any]:
            ol = AsyncOpenLambda(ADDRESS)
            ids = await asyncio.gather(*(ol.create({"code": CODE, "leaf": True}) for _ in range(8)))
            await asyncio.gather(*(ol.pause(sandbox_id) for sandbox_id in ids))
            await asyncio.gather(*(ol.unpause(sandbox_id) for sandbox_id in ids))
            await asyncio.gather(*(ol.destroy(sandbox_id) for sandbox_id in ids))
            return ids

        self.assertEqual(len(set(asyncio.run(all_of_them()))), 8)


if __name__ == "__main__":
    unittest.main()
