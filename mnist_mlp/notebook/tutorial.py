# %% [markdown]
# # From tensors to a step size
#
# This notebook follows the "Pytorch Tutorial" section by section, with `mnist_mlp` in place of code typed in: tensors,
# derivatives, a network, MNIST, stochastic gradient descent, and then the two exercises, on the step size and on the
# batch size. It takes about a minute on a CPU. MNIST (12 MB) is downloaded into a folder `data` beside the notebook;
# without a network, digits that come with scikit-learn stand in for it, and the numbers differ.

# %%
from mnist_mlp.openmp import adapt_to_load

adapt_to_load()  # before torch is imported: where other programs keep the cores busy, waiting threads sleep

# %%
import logging
import math
import warnings
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from lightning.pytorch import Trainer
from PIL import Image

from mnist_mlp import LOSSES, MLP, MLPClassifier, MNISTDataModule, loss_and_gradient
from mnist_mlp.display.drawings import draw_digits, draw_worst_errors
from mnist_mlp.display.progress import EpochLines
from mnist_mlp.gradient import sgd
from mnist_mlp.runtime.last_checkpoint import LastCheckpoint
from mnist_mlp.studies.compare_batch_sizes import compare_batch_sizes
from mnist_mlp.studies.find_lr import find_lr

SOURCE = "auto"  # or "digits", which needs no download
torch.manual_seed(0)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module="lightning")  # about Lightning's own affairs

# %% [markdown]
# ## Tensors
#
# A tensor is an array of numbers of one type. It lives on a device, the CPU or a GPU, and knows how to be
# differentiated. New ones are filled with zeros, ones, random numbers or a list's.

# %%
x = torch.rand(5, 3)  # uniform in 0..1
ones = torch.ones(5, 3)
a = torch.tensor([5.5, 3, 1])
noise = torch.randn_like(x)  # normal, in the shape of x
print(x, x.shape, x.dtype, sep="\n")

# %% [markdown]
# Arithmetic goes element by element. `dot` is the inner product and `mv` a matrix times a vector.

# %%
print("sum      ", (x + ones)[0])
print("product  ", (x * noise)[0])
print("x a      ", x.mv(a))
print("|a|²     ", a.dot(a).item(), "=", (a.norm() ** 2).item())

# %% [markdown]
# Slices and `view` share the memory of the tensor they come from, and a method that ends in `_` writes into it. That
# is how an update changes a network in place.

# %%
column, row = x[:, 1], x.view(15)
x.mul_(10)
print(column, row[:3], sep="\n")
print("one element as a Python number:", x[0, 0].item())

# %% [markdown]
# ### On a GPU
#
# `.to(device)` copies a tensor. Operations run where their tensors are.

# %%
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
y = x.to(device) + torch.ones_like(x, device=device)
print(y.device, y.to("cpu", torch.double).dtype)

# %% [markdown]
# ## Automatic differentiation
#
# A tensor with `requires_grad` records the operations on it, and the chain rule turns the record into a derivative.
# Take the logistic loss of one example, $f(w) = \log(1 + e^{-3.5 w})$, whose derivative is known.

# %%
w = torch.rand(1, requires_grad=True)
f = torch.log(1 + torch.exp(-3.5 * w))
(derivative,) = torch.autograd.grad(f, w)
print(derivative.item(), "by the formula", (-3.5 / (1 + torch.exp(3.5 * w))).item())

# %% [markdown]
# In 20 variables the derivative is a gradient, of the shape of $w$. For a composition such as
# $(1 - w_2 \tanh(3.5\, w_1))^2$ there is one for each variable.

# %%
examples, w = torch.rand(100, 20), torch.rand(20, requires_grad=True)
(gradient,) = torch.autograd.grad(torch.log(1 + torch.exp(-examples.mv(w))).sum(), w)
print(gradient.shape)

w1, w2 = torch.rand(1, requires_grad=True), torch.rand(1, requires_grad=True)
print(torch.autograd.grad((1 - w2 * torch.tanh(3.5 * w1)) ** 2, (w1, w2)))

# %% [markdown]
# `backward()`, which most code calls instead, adds the same derivatives to `.grad` of each variable, where they stay
# until someone sets them back to zero. This package only ever uses `torch.autograd.grad`: a function that returns its
# result leaves nothing behind.

# %% [markdown]
# ## The network
#
# $\Phi(x; u)$ alternates affine maps $W_l x + b_l$ with a function $\sigma$ of single numbers; $u$ stands for all the
# weights and biases. `MLP` has one hidden layer of 500 units, or as many layers as you name.

# %%
torch.manual_seed(0)
net = MLP(hidden=[500])
print(net)
for name, parameter in net.named_parameters():
    print(f"{name:<11} {tuple(parameter.shape)}")

# %% [markdown]
# Its $\sigma$ is the softplus $\log(1 + e^{\beta z}) / \beta$ with $\beta = 25$, a ReLU with a rounded corner. From
# $z = 0.04$ on torch takes $z$ itself, which is 0.0125 less: hence the small jump.

# %%
z = torch.linspace(-0.2, 0.2, 801)
figure, axes = plt.subplots(figsize=(5, 2.6), dpi=80, layout="constrained")
axes.plot(z, net.nonlin1(z), color="#0072b2")
axes.plot(z, z.relu(), color="black", linewidth=0.8, linestyle="--")
axes.annotate("softplus", (-0.04, 0.022), ha="right", color="#0072b2")
axes.annotate("ReLU", (-0.08, -0.018), ha="right")
axes.set(title="The softplus jumps at z = 0.04", xlabel="z", ylabel="σ(z)", ylim=(-0.03, 0.2))
plt.show()

# %% [markdown]
# ## Data
#
# `MNISTDataModule` holds the 60,000 training images as one tensor, with the mean and deviation of their pixels brought
# to 0 and 1, and their labels as rows of a unit matrix. 5,000 of them are set aside: whatever we choose below, we
# choose by these validation images, and the test images stay unseen.

# %%
data = MNISTDataModule(source=SOURCE)
data.prepare_data()
data.setup("fit")
print(data.description)

images, targets = next(iter(data.batches(200)))
print(tuple(images.shape), tuple(targets.shape), "first label:", targets[0].tolist())
plt.figure(figsize=(5, 2), dpi=80, layout="constrained")
plt.imshow(draw_digits(images[:40]).permute(1, 2, 0))
plt.title(" ".join(str(label) for label in targets[:10].argmax(dim=1).tolist()) + "   in the first row")
plt.axis("off")
plt.show()

# %% [markdown]
# ## Optimization
#
# Training looks for $u$ with a small mean loss $f(u)$ over the training images. `loss_and_gradient` computes the loss
# of a batch and the gradient $g$ that belongs to it, one tensor for each parameter.

# %%
loss_fn = LOSSES["mse"]
loss, gradient = loss_and_gradient(net, loss_fn, images, targets)
print(f"loss {loss.item():.4f}", [tuple(g.shape) for g in gradient])

# %% [markdown]
# The gradient over all 55,000 images is expensive. A random batch gives an estimate of it that is right on average,
# and whose error shrinks with the square root of the batch size: four times the images halve it.

# %%
_, full = loss_and_gradient(net, loss_fn, *data.train_set)
for size in (50, 200, 800):
    errors = []
    for x, y in islice(data.batches(size), 5):
        _, estimate = loss_and_gradient(net, loss_fn, x, y)
        errors.append(((estimate[0] - full[0]).norm() / full[0].norm()).item())
    print(f"batches of {size:>3}: off by {sum(errors) / len(errors):.0%}")

# %% [markdown]
# ### Stochastic gradient descent
#
# Each update takes a new batch and goes a step against its gradient, $u \leftarrow u - \gamma g$, where $\gamma$ is
# the step size. This loop is the whole algorithm:

# %%
losses = []
for x, y in data.batches(200):
    loss, gradient = loss_and_gradient(net, loss_fn, x, y)
    with torch.no_grad():
        for u, g in zip(net.parameters(), gradient, strict=True):
            u -= 0.1 * g
    losses.append(loss.item())
print(f"{len(losses)} updates: from {losses[0]:.4f} to {sum(losses[-20:]) / 20:.4f}")

# %% [markdown]
# The package has it as a generator, `sgd`, and from the same start it takes the same way.

# %%
torch.manual_seed(0)
again = [loss.item() for loss in sgd(MLP([500]), loss_fn, data.batches(200), lr=0.1)]
print("largest difference:", max(abs(one - other) for one, other in zip(losses, again, strict=True)))

plt.figure(figsize=(5, 2.6), dpi=80, layout="constrained")
plt.semilogy(losses, color="#0072b2", linewidth=0.8)
plt.axhline(0.09, color="black", linewidth=0.8)
plt.annotate("guessing", (len(losses), 0.09), xytext=(0, 3), textcoords="offset points", ha="right")
plt.title("In one epoch the loss falls to a third of that of guessing")
plt.xlabel("updates")
plt.ylabel("loss of a batch (mse)")
plt.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## `fit`
#
# `MLPClassifier` is this network and this update as a module for Lightning, whose `Trainer` adds the rest: passes over
# the data, validation, curves for TensorBoard, checkpoints. It is the run of `python -m mnist_mlp fit`.
#
# To see it stop safely, raise `max_epochs` and interrupt the cell. It finishes its update, saves, and shows one line
# with the checkpoint and the call that goes on from there.

# %%
torch.manual_seed(0)
model = MLPClassifier(lr=0.1)
quiet = {"enable_progress_bar": False, "enable_model_summary": False}
trainer = Trainer(max_epochs=2, devices=1, callbacks=[EpochLines(), LastCheckpoint()], **quiet)
trainer.fit(model, data)

# %% [markdown]
# Among the validation images, these look least like their labels to the network. Each has its label, the network's
# answer, the score of that answer, and its number in the set.

# %%
images, targets = data.val_set
with torch.no_grad():
    scores = model.cpu().scores(model(images.cpu()))
display(draw_worst_errors(images.cpu(), targets.cpu().argmax(dim=1), scores))

# %% [markdown]
# ## How to choose the step size
#
# In theory $\gamma_k$ should fall like $1/\sqrt{k+1}$. In practice one starts with a constant $\gamma_0$, waits until
# the validation loss stops improving, multiplies $\gamma$ by a factor $\delta$ such as 1/2, and goes on. So there are
# three things to choose: $\gamma_0$, how long to wait, and $\delta$. All are settings of the classifier:
# `MLPClassifier(lr=1, schedule="plateau", patience=3, decay=0.5)`. `compare_decays` and `compare_methods` try them
# side by side, which takes longer than this notebook.
#
# ### Exercise 1: the first step size
#
# Too small a $\gamma_0$ wastes time. Too large a one blows up: the loss grows until it is NaN, or, with cross-entropy,
# settles at $\ln 10$, where the network guesses. Find a $\gamma_0$ that works while $10\gamma_0$ does not. Try a few
# yourself before you go on:

# %%
for lr in (0.01, 10.0):
    torch.manual_seed(0)
    *_, last = sgd(MLP([500]), loss_fn, islice(data.batches(200), 100), lr)
    print(f"γ = {lr:g}: after 100 updates the loss is {last.item():.3g}")

# %% [markdown]
# `find_lr` tries each power of ten for 100 updates, from the same weights and with the same batches, and then some
# values between the last that works and the first that does not.


# %%
def show(study: str) -> None:
    """The newest picture of a study."""
    pictures = Path("lightning_studies").glob(f"{study}_*/*.png")
    display(Image.open(max(pictures, key=lambda path: path.stat().st_mtime)).quantize(64))


torch.manual_seed(0)
gamma_0 = find_lr(MLPClassifier(), data)
show("find_lr")

# %% [markdown]
# Both $\gamma_0$ and $\gamma_0 / 10$ are good first choices. Smaller ones work too, but crawl.
#
# ### Exercise 2: the batch size
#
# Find the best step size for batches of 50, 100 and 200, and compare how fast the loss falls. Smaller batches have
# noisier gradients and want smaller steps, but the same images make more updates of them. `compare_batch_sizes` tries
# a grid of step sizes for each, on 55,000 images, and then trains each size anew with its best one.

# %%
torch.manual_seed(0)
best = compare_batch_sizes(MLPClassifier(), data, grid=[0.1, 0.3, 0.5, 1.0, 2.0], budget=55_000, epochs=1)
show("compare_batch_sizes")

# %% [markdown]
# ## Where to go from here
#
# Use what you have found: the smallest batches, which make the most updates of an epoch, with their best step size.
# Look at the test images once, at the end:

# %%
size = min(best)
torch.manual_seed(0)
model, data = MLPClassifier(lr=best[size]), MNISTDataModule(source=SOURCE, batch_size=size)
trainer = Trainer(max_epochs=2, devices=1, callbacks=[EpochLines(), LastCheckpoint()], **quiet)
trainer.fit(model, data)
(result,) = trainer.test(model, data, verbose=False)
error = 1 - result["test/accuracy"]
print(f"{result['test/errors']:.0f} errors: {error:.2%} ± {math.sqrt(error * (1 - error) / 10_000):.2%}")

# %% [markdown]
# The curves of all these runs are in `lightning_logs`, for `tensorboard --logdir lightning_logs`. The six files at the
# top of the package, from `network.py` to `classifier.py`, are this notebook's code, and the README has the commands.
