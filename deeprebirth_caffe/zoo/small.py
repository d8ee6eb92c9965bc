"""Settings that the nets for small machines share: pixels, fillers and solver.

The published nets read pixels up to some 60 from the mean, and overcome that with small fillers and thousands of
iterations on a plateau. Nets that must learn within minutes get pixels of about 1, He's filler, and
a classifier that starts undecided.
"""

from __future__ import annotations

from deeprebirth_caffe.zoo.builder import Defaults, gaussian, msra
from deeprebirth_caffe.zoo.design import Data, Solver

#: 64 x 64 pictures, scaled to about one.
SMALL_PICTURES = Data(size=64, train_batch=64, test_batch=50, scale=0.017)


def small_net_defaults(lrn_alpha: float = 0.35) -> Defaults:
    """Fillers of a net that learns quickly.

    Args:
        lrn_alpha: AlexNet's 1e-4 is for raw pixels; divided by the square of their scale (0.017 here) it
            normalises scaled ones as much.
    """
    return Defaults(
        conv=msra(),
        dense=msra(),
        classifier=gaussian(0.01),
        lrn_alpha=lrn_alpha,
        # Short schedules: statistics over some hundred batches instead of a thousand.
        bn_momentum=0.99,
    )


def small_machine_solver(base_lr: float, weight_decay: float = 0.0005) -> Solver:
    """40,000 batches of 64 (fifty epochs of 50,000 pictures), the rate falling to 0."""
    return Solver(
        base_lr=base_lr,
        schedule="poly",
        power=1.0,
        max_iter=40_000,
        weight_decay=weight_decay,
        test_iter=100,
        test_interval=1000,
        snapshot=5000,
    )
