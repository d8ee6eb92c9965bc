"""`python -m deeprebirth_caffe`: the command `rebirth`, for where scripts are not on the path."""

from deeprebirth_caffe.cli import main

if __name__ == "__main__":
    main()
