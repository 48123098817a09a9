"""The paper's theorems as code: each proof is a construction, or an algorithm that checks it."""
