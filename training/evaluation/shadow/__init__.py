"""A version that is tried out on copies of requests, compared with the one that serves."""
