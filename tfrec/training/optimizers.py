"""AdamW that touches only the rows of an embedding table that a step read, with learning rates by part of the model."""

import math
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from tfrec.distributed.workers import sum_rows

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices


class LazyAdamW(tf.keras.optimizers.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) with lazy updates of embedding tables.

    Keras's Adam decays both moments of *every* row of a table in each step, so a step costs as much as the table is
    large. Here a sparse gradient updates the rows it names and leaves the others as they are (LazyAdam).

    Args:
        learning_rate: float or schedule.
        beta_1, beta_2, epsilon: of Adam.
        decay: decoupled weight decay of kernels (not of embedding tables, biases and norms).
        rates: name of a variable, or a prefix of names -> multiple of the learning rate; 0 leaves the variable as it is.
        global_clipnorm: bound on the global norm of the gradients; 0: none.
        rate_cut: a variable that multiplies the learning rate, for those who lower it as training goes.
    """

    def __init__(
        self,
        learning_rate: float | tf.keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        decay: float = 0.0,
        rates: dict[str, float] | None = None,
        global_clipnorm: float | None = None,
        rate_cut: tf.Variable | None = None,
        name: str = "LazyAdamW",
        **kwargs: Any,
    ):
        kwargs.pop("jit_compile", None)  # XLA has no sparse updates
        # Keras's own decay is 0 by default, not None: it would take 0 times every table from that table in each step.
        kwargs.setdefault("weight_decay", None)
        super().__init__(name=name, global_clipnorm=global_clipnorm or None, jit_compile=False, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.decay, self.rates = decay, dict(rates or {})
        self.rate_cut = 1.0 if rate_cut is None else rate_cut

    def build(self, var_list: list[tf.Variable]) -> None:
        if getattr(self, "_built_moments", False):
            return  # Keras builds again with the variables of each step: those without a gradient would shift the others
        self._built_moments = True
        super().build(var_list)
        self._first = [self.add_variable_from_reference(v, "m") for v in var_list]
        self._second = [self.add_variable_from_reference(v, "v") for v in var_list]

    def _clip_gradients(self, grads: list[Gradient]) -> list[Gradient]:
        """Clip by the norm of the gradients, of a table's that of its distinct rows: Keras takes that of the rows as they
        came, which depends on how often a row was read, and by how many workers."""
        return super()._clip_gradients([sum_rows(g) if isinstance(g, tf.IndexedSlices) else g for g in grads])

    def _deduplicate_sparse_grad(self, grads: list[Gradient]) -> list[Gradient]:
        return grads  # done before they were clipped

    def rate_of(self, name: str) -> float:
        """Multiple of the learning rate for the variable `name`: its own, else that of the longest prefix it has."""
        if name in self.rates:
            return self.rates[name]
        prefixes = [prefix for prefix in self.rates if not prefix.endswith(":0")]  # not another variable's whole name
        matching = [prefix for prefix in prefixes if name.startswith(prefix) or f"/{prefix}" in name]
        return self.rates[max(matching, key=len)] if matching else 1.0

    def _internal_apply_gradients(self, grads_and_vars: list[tuple[Gradient, tf.Variable]]) -> tf.Tensor:
        """Update every variable, by numbers that are computed once: made anew for each, as Keras has it, they were most of a
        step's ops, and took longer to trace than the model."""
        step = tf.cast(self.iterations + 1, tf.float32)
        adam = Adam(
            beta_1=tf.constant(self.beta_1),
            beta_2=tf.constant(self.beta_2),
            epsilon=tf.constant(self.epsilon),
            power_1=self.beta_1**step,
            power_2=self.beta_2**step,
        )
        rate = tf.cast(self.learning_rate, tf.float32) * tf.cast(self.rate_cut, tf.float32)
        multiples = [self.rate_of(variable.name) for _, variable in grads_and_vars]
        rates = {multiple: rate * multiple for multiple in multiples}
        decays = {multiple: rate * self.decay for multiple, rate in rates.items()}
        for (gradient, variable), multiple in zip(grads_and_vars, multiples, strict=True):
            if multiple == 0.0:
                continue
            index = self._index_dict[self._var_key(variable)]
            moments = self._first[index], self._second[index]
            if isinstance(gradient, tf.IndexedSlices):
                adam.update_rows(gradient, variable, *moments, rates[multiple])
                continue
            if self.decay and "kernel" in variable.name:
                variable.assign_sub(variable * decays[multiple])
            adam.update(gradient, variable, *moments, rates[multiple])
        return self.iterations.assign_add(1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "decay": self.decay,
            "rates": self.rates,
        }


class Adam(NamedTuple):
    """Adam's update in a step: the moments' decay rates, epsilon, and the rates to the power of the step's number."""

    beta_1: tf.Tensor
    beta_2: tf.Tensor
    epsilon: tf.Tensor
    power_1: tf.Tensor
    power_2: tf.Tensor

    def update(
        self, gradient: tf.Tensor, variable: tf.Variable, m: tf.Variable, v: tf.Variable, rate: tf.Tensor
    ) -> None:
        """Update a whole variable, by one op that passes over it, its gradient and its moments once; the formula spelled out
        passes ten times."""
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=self.power_1,
            beta2_power=self.power_2,
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def update_rows(
        self, gradient: tf.IndexedSlices, variable: tf.Variable, m: tf.Variable, v: tf.Variable, rate: tf.Tensor
    ) -> None:
        """Update the rows that the gradient names, none of them twice."""
        rows, values = gradient.indices, gradient.values
        m_rows = tf.gather(m, rows) * self.beta_1 + values * (1.0 - self.beta_1)
        v_rows = tf.gather(v, rows) * self.beta_2 + tf.square(values) * (1.0 - self.beta_2)
        m.scatter_update(tf.IndexedSlices(m_rows, rows))
        v.scatter_update(tf.IndexedSlices(v_rows, rows))
        rate *= tf.sqrt(1.0 - self.power_2) / (1.0 - self.power_1)
        # Written whole: the op that subtracts from rows takes several times as long as a gather and a write.
        new = tf.gather(variable, rows) - rate * m_rows / (tf.sqrt(v_rows) + self.epsilon)
        variable.scatter_update(tf.IndexedSlices(new, rows))


@tf.keras.utils.register_keras_serializable("tfrec")
class WarmupCosine(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise to `peak` over `warmup` steps, then a half cosine to zero at `steps` (constant where `fall` is False)."""

    def __init__(self, peak: float, steps: int, warmup: int, fall: bool = True):
        self.peak, self.steps, self.warmup, self.fall = peak, steps, warmup, fall

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rise = tf.minimum(1.0, (step + 1.0) / max(1, self.warmup))
        if not self.fall:
            return self.peak * rise
        done = tf.clip_by_value((step - self.warmup) / max(1, self.steps - self.warmup), 0.0, 1.0)
        return self.peak * rise * 0.5 * (1.0 + tf.cos(math.pi * done))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup, "fall": self.fall}
