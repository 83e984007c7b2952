#!/bin/sh
# What a guest does that has no agent, being a guest of a guest: its part of the story, printed
# on the console as "STEP STATUS" lines. /settings says ROLE: two hosts and an emulated disk, or
# the guest of map_of_guest.py.
exec > /dev/ttyS0 2>&1
. /settings
disk=/dev/sda
type=--prout-type=5
until test -b $disk; do sleep 1; done

in_keys() { sg_persist -n --in -k $disk | grep -q " $1\$"; }
until_in_keys() { until in_keys "$1"; do sleep 1; done; }
while_in_keys() { while in_keys "$1"; do sleep 1; done; }
until_held_by() { until sg_persist -n --in -r $disk | grep -q "Key=$1"; do sleep 1; done; }
# A command; again after a unit attention, at most one for each of a few events.
step() {
  name=$1
  shift
  for _ in 1 2 3 4; do
    sg_persist -n "$@" $disk
    status=$?
    test $status -eq 6 || break
  done
  echo "$name $status"
}
write() {
  dd if=/dev/zero of=$disk bs=4096 count=1 conv=fsync
  echo "$1 $?"
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
  map)
    dmesg -n 1 # writes that fail are no news
    step register --out --register --param-sark=0xa1
    step keys --in -k
    step reserve --out --reserve --param-rk=0xa1 $type
    step reservation --in -r
    step status --in -s
    until_in_keys 0xc3
    write registered
    step release --out --release --param-rk=0xa1 $type
    while_in_keys 0xa1
    until_held_by 0xc3
    step conflict --out --reserve --param-rk=0xa1 $type
    write fenced
    step anew --out --register-ignore --param-sark=0xa1
    write again
    step preempt --out --preempt --param-rk=0xa1 --param-sark=0xc3 $type
    step holder --in -r
    step clear --out --clear --param-rk=0xa1
    step none --in -k
    ;;
esac
reboot -f
