"""The configs that come with the package; installed as thanos_jax.configs."""
