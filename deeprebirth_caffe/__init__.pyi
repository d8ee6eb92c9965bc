from deeprebirth_caffe.api import *  # noqa: F403

__version__: str
