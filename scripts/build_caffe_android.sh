#!/usr/bin/env bash
# Builds the `caffe` program for Android, with all that it needs, for `rebirth device install adb --binary …`.
#
# It is needed only where the arm64 Caffe that `rebirth caffe install` brings does not start on a device. Nothing is
# downloaded: the sources are files that you name. docs/android.md says how far this was proven: it has not yet made a
# program that runs.
set -Eeuo pipefail

say() { printf 'android: %s\n' "$*"; }
die() { printf 'build_caffe_android.sh: %s\n' "$1" >&2; exit "${2:-1}"; }

# What is built, in which version, and the SHA-256 of the archive that was tried (Debian's upstream archives: `apt-get
# source --download-only NAME` fetches them on Debian 11 and 12).
readonly PARTS=(caffe boost protobuf glog gflags openblas)
readonly PINNED='
caffe    1.0.0+git20180821.99bd997 e0eb3f06794f7402c77b7dec8e8480273ee1a1bb192e9122b621a69d4147ad0c
boost    1.81.0                    449afecf5ef98edc0a46826cde6af98d1fb95c2e92962fa8c9e3eb1e8a2928ec
protobuf 3.12.4                    512e5a674bf31f8b7928a64d8adf73ee67b8fe88339ad29adaa3b84dbaa570d8
glog     0.6.0                     8a83bf982f37bb70825df71a9709fa90ea9f4447fb3c099e1d720a439d88bad6
gflags   2.2.2                     34af2f15cf7367513b352bdcd2493ab14ce43692d2dcd9dfc499492966c64dcf
openblas 0.3.21                    bbec5cca61c8033b2d57aaecde205d709323a0b35a5f193290081dbb3826848a
'

usage() {
    cat <<'HELP'
Usage: build_caffe_android.sh (--ndk DIR | --zig FILE) --sources DIR [OPTION]... OUT

Builds Caffe 1.0's command line program (CPU only; no Python, HDF5, OpenCV, LMDB, LevelDB) with Boost,
protobuf, glog, gflags and OpenBLAS in it: one file, OUT/bin/caffe. It needs cmake 3.22 or newer, make
and a C++ compiler for this machine. How far it was tried: docs/android.md.

  OUT                gets bin/caffe; build files stay in OUT/.build, and a second run goes on with them
  --ndk DIR          an Android NDK, r23 or newer
  --zig FILE         instead: the zig program of Python's package ziglang. It makes a static program for plain
                     Linux, to try the build without an NDK
  --sources DIR      where the archives lie: one file or directory for each part, whose name begins with the
                     part's (caffe, boost, protobuf, glog or google-glog, gflags, openblas). Debian's source
                     packages of these names are what was tried; their SHA-256 sums are checked
  --source NAME=PATH another archive or directory for one part; it is not checked
  --abi ABI          arm64-v8a (default), armeabi-v7a, x86_64 or x86
  --api N            Android API level; default: 24
  --blas-target T    OpenBLAS's TARGET; default: ARMV8, ARMV7, HASWELL or ATOM by ABI. DYNAMIC builds the kernels
                     of all 64-bit cores and chooses on the device (the build takes far longer)
  --host-protoc FILE a protoc 3.12 for this machine; default: one is built from the same sources
  -j N               parallel jobs; default: the number of processors
  -h, --help         this text

Exit status: 0 done, 1 failed, 2 wrong usage.
HELP
}

# ---------------------------------------------------------------- the command line

ndk='' zig='' sources='' abi=arm64-v8a api=24 blas='' protoc='' out='' jobs=$(getconf _NPROCESSORS_ONLN)
named=()
need_value() { [[ $# -ge 2 && -n $2 ]] || die "$1 needs a value; see --help" 2; }
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --ndk) need_value "$@"; ndk=$2; shift 2 ;;
        --zig) need_value "$@"; zig=$2; shift 2 ;;
        --sources) need_value "$@"; sources=$2; shift 2 ;;
        --source) need_value "$@"; named+=("$2"); shift 2 ;;
        --abi) need_value "$@"; abi=$2; shift 2 ;;
        --api) need_value "$@"; api=$2; shift 2 ;;
        --blas-target) need_value "$@"; blas=$2; shift 2 ;;
        --host-protoc) need_value "$@"; protoc=$2; shift 2 ;;
        -j) need_value "$@"; jobs=$2; shift 2 ;;
        -*) die "unknown option $1; see --help" 2 ;;
        *)
            [[ -z $out ]] || die "one OUT at most; see --help" 2
            out=$1
            shift ;;
    esac
done

[[ -n $out ]] || die "OUT is missing; see --help" 2
[[ -n $ndk || -n $zig ]] || die "name a toolchain, --ndk DIR or --zig FILE; see --help" 2
[[ -z $ndk || -z $zig ]] || die "--ndk and --zig exclude each other; see --help" 2
[[ $api =~ ^[0-9]+$ ]] || die "--api wants a number, got '$api'" 2
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "-j wants a number, got '$jobs'" 2
case $abi in
    arm64-v8a) clang=aarch64-linux-android zig_target=aarch64-linux-musl cpu=aarch64 default_blas=ARMV8 ;;
    armeabi-v7a) clang=armv7a-linux-androideabi zig_target=arm-linux-musleabihf cpu=armv7-a default_blas=ARMV7 ;;
    x86_64) clang=x86_64-linux-android zig_target=x86_64-linux-musl cpu=x86_64 default_blas=HASWELL ;;
    x86) clang=i686-linux-android zig_target=x86-linux-musl cpu=i686 default_blas=ATOM ;;
    *) die "unknown ABI '$abi'; see --help" 2 ;;
esac
blas=${blas:-$default_blas}
[[ $blas =~ ^[A-Z0-9_]+$ ]] || die "--blas-target wants a name such as ARMV8, got '$blas'" 2

for tool in cmake make tar; do command -v "$tool" >/dev/null || die "$tool not found: install it"; done
host_cc=$(command -v cc || command -v gcc || command -v clang) || die "no C compiler for this machine: install one"
version=$(cmake --version | sed -nE '1s/[^0-9]*([0-9]+)\.([0-9]+).*/\1 \2/p')
read -r major minor <<<"$version"
((major > 3 || (major == 3 && minor >= 22))) || die "cmake $major.$minor is too old: 3.22 or newer is needed"

# ---------------------------------------------------------------- the sources

sha256() { if command -v sha256sum >/dev/null; then sha256sum -- "$1"; else shasum -a 256 -- "$1"; fi | cut -d' ' -f1; }

# Says in `path` where a part is, and in `checked` whether its sum must be the pinned one.
locate() { # PART
    local word match
    checked=yes path=''
    for word in ${named[@]+"${named[@]}"}; do
        if [[ $word == "$1="?* ]]; then path=${word#*=} checked=no; fi
    done
    if [[ -z $path ]]; then
        [[ -n $sources ]] || die "where is $1? Name its archive with --source $1=PATH, or a directory of all with --sources" 2
        [[ -d $sources ]] || die "--sources: '$sources' is no directory"
        for match in "$sources/$1"* "$sources/google-$1"*; do
            case $match in
                *.tar.gz | *.tgz | *.tar.xz | *.tar.bz2) if [[ $match != *.debian.* && $match != *.orig-* ]]; then path=$match; fi ;;
            esac
        done
        [[ -n $path ]] || die "'$sources' holds no archive of $1: put it there, or name it with --source $1=PATH"
    fi
    [[ -e $path ]] || die "$1: '$path' is not there"
}

unpack() { # PART; says in `tree` where its sources are
    local pin version wanted got
    locate "$1"
    if [[ -d $path ]]; then
        tree=$(cd -- "$path" && pwd)
        return
    fi
    read -r _ version wanted < <(grep -E "^$1 " <<<"$PINNED")
    got=$(sha256 "$path")
    if [[ $checked == yes && $got != "$wanted" ]]; then
        die "'$path' is not the archive of $1 $version that was tried (SHA-256 $got, not $wanted): take that one, or say --source $1=PATH"
    fi
    tree=$build/sources/$1
    if [[ $(cat -- "$tree/.unpacked" 2>/dev/null) != "$got" ]]; then
        say "unpack $1"
        rm -rf -- "$tree" "$tree.new"
        mkdir -p -- "$tree.new"
        tar -xf "$path" -C "$tree.new"
        # Some archives hold one directory, some the files themselves.
        local entries=("$tree.new"/*)
        while [[ ${#entries[@]} -eq 1 && -d ${entries[0]} ]]; do
            mv -- "${entries[0]}" "$tree.inner"
            rm -rf -- "$tree.new"
            mv -- "$tree.inner" "$tree.new"
            entries=("$tree.new"/*)
        done
        mv -- "$tree.new" "$tree"
        printf '%s\n' "$got" >"$tree/.unpacked"
    fi
}

here=$(cd -- "$(dirname -- "$0")" && pwd)
mkdir -p -- "$out/bin" || die "cannot create '$out'"
out=$(cd -- "$out" && pwd)
build=$out/.build
mkdir -p -- "$build/sources" "$build/tools"

definitions=()
openblas_tree='' protobuf_tree=''
for part in "${PARTS[@]}"; do
    unpack "$part"
    case $part in
        openblas) openblas_tree=$tree ;;
        protobuf) protobuf_tree=$tree ;;
    esac
    if [[ $part != openblas ]]; then
        definitions+=("-DSOURCES_$(tr '[:lower:]' '[:upper:]' <<<"$part")=$tree")
    fi
done

# ---------------------------------------------------------------- the compilers

if [[ -n $ndk ]]; then
    toolchain=$ndk/build/cmake/android.toolchain.cmake
    [[ -f $toolchain ]] || die "'$ndk' is no NDK: it has no build/cmake/android.toolchain.cmake"
    programs=("$ndk"/toolchains/llvm/prebuilt/*/bin)
    [[ -d ${programs[0]} ]] || die "'$ndk' has no toolchains/llvm/prebuilt: an NDK from r23 on is needed"
    cc=${programs[0]}/$clang$api-clang ar=${programs[0]}/llvm-ar ranlib=${programs[0]}/llvm-ranlib
    [[ -x $cc ]] || die "the NDK has no compiler for API $api ($cc): try another --api"
    # Android 15 and later may have pages of 16 KiB.
    definitions+=("-DCMAKE_TOOLCHAIN_FILE=$toolchain" "-DANDROID_ABI=$abi" "-DANDROID_PLATFORM=android-$api"
        -DANDROID_STL=c++_static "-DCMAKE_EXE_LINKER_FLAGS=-Wl,-z,max-page-size=16384")
else
    [[ -x $zig ]] || die "'$zig' is no program: --zig wants the file 'zig' of the Python package ziglang"
    zig=$(cd -- "$(dirname -- "$zig")" && pwd)/$(basename -- "$zig")
    for tool in cc c++; do
        # zig has processor names of its own, and takes the right one from the target.
        printf '#!/bin/sh\nfor word; do\n    shift\n    case $word in -march=* | -mcpu=* | -mtune=*) ;; *) set -- "$@" "$word" ;; esac\ndone\n' \
            >"$build/tools/$tool"
        printf 'exec "%s" %s -target %s "$@"\n' "$zig" "$tool" "$zig_target" >>"$build/tools/$tool"
    done
    for tool in ar ranlib; do printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$zig" "$tool" >"$build/tools/$tool"; done
    chmod 755 "$build/tools"/*
    cc=$build/tools/cc ar=$build/tools/ar ranlib=$build/tools/ranlib
    definitions+=(-DCMAKE_SYSTEM_NAME=Linux "-DCMAKE_SYSTEM_PROCESSOR=$cpu" "-DCMAKE_C_COMPILER=$cc"
        "-DCMAKE_CXX_COMPILER=$build/tools/c++" "-DCMAKE_AR=$ar" "-DCMAKE_RANLIB=$ranlib"
        -DCMAKE_EXE_LINKER_FLAGS=-static)
fi

# ---------------------------------------------------------------- the build

if [[ -z $protoc ]]; then
    protoc=$build/host/protoc
    if [[ ! -x $protoc ]]; then
        say "protoc for this machine"
        cmake -S "$protobuf_tree/cmake" -B "$build/host" -DCMAKE_POLICY_VERSION_MINIMUM=3.5 -DCMAKE_BUILD_TYPE=Release \
            -DCMAKE_CXX_STANDARD=11 -Dprotobuf_BUILD_TESTS=OFF -Dprotobuf_WITH_ZLIB=OFF >"$build/host.log" 2>&1 ||
            die "protoc cannot be configured; see $build/host.log"
        cmake --build "$build/host" --target protoc -j "$jobs" >>"$build/host.log" 2>&1 ||
            die "protoc cannot be built; see $build/host.log"
    fi
fi
[[ -x $protoc ]] || die "'$protoc' is no program; see --host-protoc"
protoc=$(cd -- "$(dirname -- "$protoc")" && pwd)/$(basename -- "$protoc")

blas_prefix=$build/openblas-$abi-$blas
if [[ ! -f $blas_prefix/lib/libopenblas.a ]]; then
    say "OpenBLAS ($blas)"
    options=(CC="$cc" AR="$ar" RANLIB="$ranlib" HOSTCC="$host_cc" CROSS=1 NOFORTRAN=1 NO_LAPACK=1 NO_SHARED=1 USE_THREAD=1
        NUM_THREADS=16 PREFIX="$blas_prefix.new")
    if [[ $blas == DYNAMIC ]]; then options+=(TARGET="$default_blas" DYNAMIC_ARCH=1); else options+=(TARGET="$blas"); fi
    # hard-float programs on ARMv7 pass arguments in the vector unit's registers, Android's in the integer ones
    if [[ $abi == armeabi-v7a && -n $ndk ]]; then options+=(ARM_SOFTFP_ABI=1); fi
    # It builds among its sources, and each target needs a clean start.
    rm -rf -- "$blas_prefix.new" "$blas_prefix.build"
    cp -R -- "$openblas_tree" "$blas_prefix.build"
    { make -C "$blas_prefix.build" -j "$jobs" "${options[@]}" libs netlib &&
        make -C "$blas_prefix.build" "${options[@]}" install; } >"$build/openblas.log" 2>&1 ||
        die "OpenBLAS cannot be built ($(grep -m 1 -E 'error:|Error ' "$build/openblas.log" | cut -c 1-160)); see $build/openblas.log"
    rm -rf -- "$blas_prefix.build"
    mv -- "$blas_prefix.new" "$blas_prefix"
fi

say "Caffe and the rest ($abi)"
cmake -S "$here/android" -B "$build/$abi" -DCMAKE_BUILD_TYPE=Release "-DPROTOC=$protoc" "-DSOURCES_OPENBLAS=$blas_prefix" \
    "${definitions[@]}" >"$build/$abi.log" 2>&1 ||
    die "cmake failed ($(grep -m 1 -A 2 'CMake Error' "$build/$abi.log" | tr -s ' \n' ' ' | cut -c 1-200)); see $build/$abi.log"
cmake --build "$build/$abi" --target caffe -j "$jobs" >>"$build/$abi.log" 2>&1 ||
    die "the build failed ($(grep -m 1 -E 'error:|undefined' "$build/$abi.log" | cut -c 1-200)); see $build/$abi.log"

cp -- "$build/$abi/caffe" "$out/bin/caffe.new"
mv -- "$out/bin/caffe.new" "$out/bin/caffe"
say "done: rebirth device install adb --binary $out/bin/caffe"
