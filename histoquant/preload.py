"""What forks workers imports this module, and has then loaded all that a field needs, with loops compiled."""

from histoquant.executors import make_ready

make_ready()
