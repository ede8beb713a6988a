"""scikit-learn's `MLPClassifier` by SGD without momentum or penalty.

It has no softplus, so it uses ReLU, and it has no squared loss of a classifier, so it uses cross-entropy.
"""

import time
import warnings

from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from mnist_mlp.benchmark.peers.work import show, work

job = work()
labels, labels_val = job.y.argmax(axis=1), job.y_val.argmax(axis=1)
if job.device != "cpu":
    raise SystemExit("scikit-learn trains on a CPU only")
net = MLPClassifier(
    job.hidden,
    solver="sgd",
    alpha=0,  # no penalty
    batch_size=job.batch_size,
    learning_rate_init=job.lr,
    momentum=0,
    max_iter=job.epochs,
    n_iter_no_change=job.epochs,  # it does not stop early
    random_state=0,
)
warnings.simplefilter("ignore", ConvergenceWarning)  # more epochs would help
started = time.perf_counter()
net.fit(job.x, labels)
seconds = time.perf_counter() - started
show(-(-len(job.x) // job.batch_size) * job.epochs, seconds, net.score(job.x_val, labels_val))
