import unittest

from worker.run import run


class Checks(unittest.TestCase):
    def test_equal_jobs_are_one(self):
        self.assertEqual(list(run(["b", "a", "b"])), [{"job": "a", "count": 1}, {"job": "b", "count": 2}])
