"""The embedding laboratory: projections, clusterings, pictures and statistics behind `python -m
tfrec.analyze`.
"""
