"""The odd cases: what has to pass before anything is kept. Immutable.

python3 -m unittest -q test_solution
"""

import random
import unittest

import reference
from solution import close_pairs


class ClosePairs(unittest.TestCase):
    def test_nothing_and_one_point(self):
        self.assertEqual(close_pairs([], 0.1), 0)
        self.assertEqual(close_pairs([(0.5, 0.5)], 0.1), 0)

    def test_points_in_the_same_place(self):
        self.assertEqual(close_pairs([(0.5, 0.5)] * 4, 0.1), 6)
        self.assertEqual(close_pairs([(0.5, 0.5)] * 4, 0.0), 6)

    def test_a_distance_of_just_the_radius_counts(self):
        self.assertEqual(close_pairs([(0.0, 0.0), (0.25, 0.0)], 0.25), 1)
        self.assertEqual(close_pairs([(0.0, 0.0), (0.0, 0.2500001)], 0.25), 0)

    def test_the_edges_of_the_square(self):
        self.assertEqual(close_pairs([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)], 1.0), 4)

    def test_the_points_are_left_as_they_were(self):
        points = [(0.9, 0.1), (0.1, 0.9)]
        close_pairs(points, 0.5)
        self.assertEqual(points, [(0.9, 0.1), (0.1, 0.9)])

    def test_as_the_reference_for_any_size_and_radius(self):
        numbers = random.Random(1)
        for size in (2, 3, 10, 100):
            for radius in (0.0, 0.001, 0.03, 0.3, 2.0):
                points, _ = reference.question(numbers, size)
                self.assertEqual(close_pairs(points, radius), reference.close_pairs(points, radius), (size, radius))


if __name__ == "__main__":
    unittest.main()
