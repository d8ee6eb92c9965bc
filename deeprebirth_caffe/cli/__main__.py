"""`python -m deeprebirth_caffe.cli`, for where the `rebirth` script is not on PATH."""

from deeprebirth_caffe.cli import main

main()
