"""The theorems of section 3 of the paper as running code.

`approximation` has Lemmas 1 and 2, Corollary 1 and Theorem 1, `compatibility` Theorem 2,
`interpolation` Proposition 1, `identification` Propositions 2 and 3.
"""
