#!/bin/sh
# What a guest does that has no agent, being a guest of a guest: its part of the story, printed
# on the console as "STEP STATUS" lines. /settings says ROLE.
exec > /dev/ttyS0 2>&1
. /settings
disk=/dev/sda
type=--prout-type=5
until test -b $disk; do sleep 1; done

in_keys() { sg_persist -n --in -k $disk | grep -q " $1\$"; }
until_in_keys() { until in_keys "$1"; do sleep 1; done; }
while_in_keys() { while in_keys "$1"; do sleep 1; done; }
step() {
  name=$1
  shift
  sg_persist -n "$@" $disk
  echo "$name $?"
}

case $ROLE in
  alice)
    step register --out --register --param-sark=0xa1
    step reserve --out --reserve --param-rk=0xa1 $type
    until_in_keys 0xb2
    step status --in -s
    while_in_keys 0xa1
    step again --out --reserve --param-rk=0xa1 $type
    step holder --in -r
    ;;
  bob)
    until_in_keys 0xa1
    step register --out --register --param-sark=0xb2
    sleep 60 # Alice reads the status of both
    step reserve --out --reserve --param-rk=0xb2 $type
    step preempt --out --preempt --param-rk=0xb2 --param-sark=0xa1 $type
    step holder --in -r
    ;;
esac
reboot -f
