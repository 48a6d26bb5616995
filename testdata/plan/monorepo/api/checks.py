import unittest

from api.__main__ import Handler
from lib.jobs import job


class Checks(unittest.TestCase):
    def test_jobs(self):
        self.assertEqual(job("a", 1), {"job": "a", "count": 1})

    def test_methods(self):
        self.assertTrue(hasattr(Handler, "do_GET"))
