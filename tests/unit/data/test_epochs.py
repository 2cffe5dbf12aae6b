import numpy as np

from recjax.data.epochs import Epochs


def test_each_epoch_has_all_numbers_in_an_order_of_its_own():
    epochs = Epochs(7, 3)
    stream = epochs(np.arange(21)).reshape(3, 7)
    assert (np.sort(stream) == np.arange(7)).all()
    assert len({tuple(order) for order in stream.tolist()}) == 3
    # A place has its number, whatever is asked before and beside it.
    assert Epochs(7, 3)(np.array([20, 0, 8])).tolist() == stream.reshape(-1)[[20, 0, 8]].tolist()
    assert stream[1].tolist() == np.random.default_rng([3, 1]).permutation(7).tolist()
    assert (Epochs(7, 4)(np.arange(7)) != stream[0]).any()
