"""Worked examples with data that engineers, chemists and banks have.

:mod:`.pricing` simulates option payoffs, :mod:`.beam` solves a beam with adjoint gradients,
:mod:`.cluster` asks ASE for energies and forces; :mod:`.ensembles` trains arms and seeds side by
side on any of them, and :mod:`.figures` draws.
"""
