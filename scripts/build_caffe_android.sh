#!/usr/bin/env bash
# Builds the `caffe` program for Android with the NDK, for `rebirth device install adb --binary … --libs …`.
#
# UNTESTED: no NDK was at hand where this was written. It is needed only where the arm64 Caffe of install_caffe.sh does
# not start on a device (docs/android.md). Sources are yours: nothing is downloaded.
set -Eeuo pipefail

say() { printf 'android: %s\n' "$*"; }
die() { printf 'build_caffe_android.sh: %s\n' "$1" >&2; exit "${2:-1}"; }

usage() {
    cat <<'HELP'
Usage: build_caffe_android.sh --ndk DIR --caffe DIR --deps DIR [--abi ABI] [--api N] [--host-protoc FILE] [-j N] OUT

Builds Caffe 1.0's command line program (CPU, no Python, no OpenCV, no LMDB, no LevelDB) for Android.
UNTESTED where it was written: please report what you had to change.

  OUT                gets bin/caffe and lib/*.so
  --ndk DIR          an Android NDK, r21 or newer
  --caffe DIR        Caffe's sources, with CMakeLists.txt in it
  --deps DIR         its dependencies built for the same ABI: include/ and lib/ with Boost (system, thread, filesystem),
                     glog, gflags, protobuf, HDF5 and OpenBLAS
  --host-protoc FILE a protoc of the same version as the protobuf in --deps; default: the one on PATH
  --abi ABI          arm64-v8a (default), armeabi-v7a, x86_64 or x86
  --api N            Android API level; default: 24
  -j N               parallel jobs; default: the number of processors
  -h, --help         this text

Exit status: 0 done, 1 failed, 2 wrong usage.
HELP
}

ndk='' caffe='' deps='' abi=arm64-v8a api=24 protoc='' out='' jobs=$(getconf _NPROCESSORS_ONLN)
need_value() { [[ $# -ge 2 && -n $2 ]] || die "$1 needs a value; see --help" 2; }
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --ndk) need_value "$@"; ndk=$2; shift 2 ;;
        --caffe) need_value "$@"; caffe=$2; shift 2 ;;
        --deps) need_value "$@"; deps=$2; shift 2 ;;
        --abi) need_value "$@"; abi=$2; shift 2 ;;
        --api) need_value "$@"; api=$2; shift 2 ;;
        --host-protoc) need_value "$@"; protoc=$2; shift 2 ;;
        -j) need_value "$@"; jobs=$2; shift 2 ;;
        -*) die "unknown option $1; see --help" 2 ;;
        *)
            [[ -z $out ]] || die "one OUT at most; see --help" 2
            out=$1
            shift ;;
    esac
done

[[ -n $ndk && -n $caffe && -n $deps && -n $out ]] || die "--ndk, --caffe, --deps and OUT are needed; see --help" 2
case $abi in
    arm64-v8a) triple=aarch64-linux-android ;;
    armeabi-v7a) triple=arm-linux-androideabi ;;
    x86_64) triple=x86_64-linux-android ;;
    x86) triple=i686-linux-android ;;
    *) die "unknown ABI '$abi'; see --help" 2 ;;
esac
[[ $api =~ ^[0-9]+$ ]] || die "--api wants a number, got '$api'" 2
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "-j wants a number, got '$jobs'" 2
toolchain=$ndk/build/cmake/android.toolchain.cmake
[[ -f $toolchain ]] || die "'$ndk' is no NDK: it has no build/cmake/android.toolchain.cmake"
[[ -f $caffe/CMakeLists.txt && -f $caffe/tools/caffe.cpp ]] || die "'$caffe' holds no sources of Caffe"
[[ -d $deps/include && -d $deps/lib ]] || die "'$deps' has no include/ and lib/"
command -v cmake >/dev/null || die "cmake not found: install it"
protoc=${protoc:-$(command -v protoc || true)}
[[ -n $protoc && -x $protoc ]] || die "no protoc for this machine: name one with --host-protoc"

mkdir -p -- "$out" || die "cannot create '$out'"
out=$(cd -- "$out" && pwd)
caffe=$(cd -- "$caffe" && pwd)
deps=$(cd -- "$deps" && pwd)
build=$out/.build

say "configure ($abi, API $api)"
cmake -S "$caffe" -B "$build" \
    -DCMAKE_TOOLCHAIN_FILE="$toolchain" -DANDROID_ABI="$abi" -DANDROID_PLATFORM="android-$api" -DANDROID_STL=c++_shared \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_FIND_ROOT_PATH="$deps" -DCMAKE_PREFIX_PATH="$deps" \
    -DCPU_ONLY=ON -DBUILD_python=OFF -DBUILD_python_layer=OFF -DBUILD_matlab=OFF -DBUILD_docs=OFF \
    -DUSE_OPENCV=OFF -DUSE_LMDB=OFF -DUSE_LEVELDB=OFF -DBLAS=Open \
    -DPROTOBUF_PROTOC_EXECUTABLE="$protoc" -DProtobuf_PROTOC_EXECUTABLE="$protoc"
say "build"
cmake --build "$build" --target caffe.bin -j "$jobs"

say "collect"
mkdir -p -- "$out/bin" "$out/lib"
program=$(find "$build/tools" -maxdepth 1 -type f \( -name caffe -o -name caffe.bin \) -print -quit)
[[ -n $program ]] || die "the build made no caffe program; see $build"
cp -- "$program" "$out/bin/caffe"
find "$build/lib" "$deps/lib" -name '*.so*' \( -type f -o -type l \) -exec cp -L -t "$out/lib" -- {} +
stl=$(find "$ndk/toolchains/llvm/prebuilt" -path "*/sysroot/usr/lib/$triple/libc++_shared.so" -print -quit)
if [[ -n $stl ]]; then cp -- "$stl" "$out/lib/"; fi
say "done: rebirth device install adb --binary $out/bin/caffe --libs $out/lib"
