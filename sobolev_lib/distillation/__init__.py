"""Distilling Atari policies (paper, section 4.2, SM 3): teachers, recordings, students, Fig. 4."""
