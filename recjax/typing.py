"""Array aliases, and the table of dimension letters.

Einsum strings, shapes in docstrings, field names and logical axes use the same letters everywhere:

| letter | dimension                             | logical axis |
|--------|---------------------------------------|--------------|
| B      | batch                                 | batch        |
| L      | sequence length in items              | length       |
| T      | tokens                                | tokens       |
| I      | catalogue size (+1 for padding)       | items        |
| D      | recommender width                     | width        |
| V      | vocabulary                            | vocab        |
| E      | LLM width                             | embed        |
| N      | heads                                 | heads        |
| K      | key/value heads                       | kv_heads     |
| H      | head width                            | head         |
| F      | feed-forward width                    | mlp          |
| R      | LoRA rank                             | rank         |
| S      | soft tokens                           | soft         |
| A      | aspects                               | aspects      |
| C      | candidates                            | candidates   |

Locally also: R packed rows (data, training), U users, n sequences.
"""

import jax

Array = jax.Array
# Parameters by path: {"blocks/0/attention/query/kernel": [D D], ...}. Flat, so that regular
# expressions (sharding, freezing, conversion), checkpoints and errors all name the same thing.
Params = dict[str, Array]
