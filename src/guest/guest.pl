# Process 1 of the test guest once init has set things up. Starts one process for each mode of calotype.mode=, then
# obeys the serial line and the power button and tells of drives that come and go. One interpreter, forked for each
# mode, because starting another takes long under emulation. Only Perl's core is there, and x86-64 system calls.
use strict;
use warnings;

# The module "constant" would take long to load.
sub O_RDWR() { 2 }
sub O_DSYNC() { 010000 }
sub SYS_FSYNC() { 74 }
sub SYS_SYNC() { 162 }
sub SYS_UMOUNT2() { 166 }
sub SYS_REBOOT() { 169 }
sub SYS_CLOCK_GETTIME() { 228 }
sub CLOCK_MONOTONIC() { 1 }
sub POWER_OFF() { 0x4321fedc }
sub HALT() { 0xcdef0123 }
sub RESTART() { 0x01234567 }
sub EBUSY() { 16 }
sub EV_KEY() { 1 }
sub KEY_POWER() { 116 }
sub EVENT_BYTES() { 24 }
sub SECTOR_BYTES() { 512 }
sub PAGE_BYTES() { 4096 }
sub MIB() { 1 << 20 }
sub SAY_SECONDS() { 0.2 }

my $command_line = read_file('/proc/cmdline');
my %option = $command_line =~ /\bcalotype\.(\w+)=(\S+)/g;
my %modes = (
  count => \&count, demo => \&demo, disk => \&disk, pair => \&pair,
  ext4 => \&ext4, dirty => \&dirty, gap => \&gap, chatter => \&chatter,
);
# Which mode hears which line of input.
my %asks = (report => 'disk', 'gap?' => 'gap');
# Of the modes that run.
my %pids;
# Set by the signal with which process 1 passes a question on; a mode answers at its next step.
my $asked = 0;
my $last_said = 0;

$SIG{USR1} = sub { $asked = 1 };
my $ending;
$SIG{TERM} = sub { $ending = POWER_OFF };
$SIG{HUP} = sub { $ending = HALT };
$SIG{INT} = sub { $ending = RESTART };

control();

# --- modes

# A counter in memory, one up about every 10 ms.
sub count {
  my $n = 0;
  while (1) {
    $n++;
    say_now_and_then("count $n");
    wait_seconds(0.01);
  }
}

# Counts once a second, in memory and on every drive that is there then. Goes on from what the drives hold at boot.
sub demo {
  my $n = 0;
  for my $name (drive_names()) {
    my $held = demo_number($name);
    say("$name " . ($held ? "holds counter $held" : defined $held ? 'is empty' : 'holds something else'));
    $n = $held if ($held // 0) > $n;
  }
  while (1) {
    $n++;
    my (@at, @not);
    for my $name (drive_names()) {
      if (write_demo($name, $n)) { push @at, $name } else { push @not, $name }
    }
    say(join ', ', "counter $n: in memory", (map { "on $_" } @at), (map { "not on $_" } @not));
    wait_seconds(1);
  }
}

# 0 for an empty drive, undef for one that holds what is not of this mode.
sub demo_number {
  my ($name) = @_;
  my $device = open_for_reading("/dev/$name") // return;
  (sysread($device, my $sector, SECTOR_BYTES) // 0) == SECTOR_BYTES or return;
  return $1 if $sector =~ /^calotype demo: counter (\d+)\n/;
  return $sector =~ /[^\0]/ ? undef : 0;
}

# Only over nothing, or over what this mode has written: somebody may attach a drive that matters.
sub write_demo {
  my ($name, $n) = @_;
  defined demo_number($name) or return 0;
  my $device = open_drive("/dev/$name") // return 0;
  return write_sector($device, 0, "calotype demo: counter $n\n");
}

# The counter in memory is never more than one ahead of what is on the disk, and never behind.
sub disk {
  my $device = open_drive('/dev/vda') or return say('disk none');
  my $n = 0;
  # Found from outside, by who looks at the memory of a guest that stands still; changed in place.
  my $mark = sprintf 'calotype-counter:%020d;', $n;
  while (1) {
    $n++;
    substr($mark, 17, 20) = sprintf '%020d', $n;
    answer_disk($n);
    until (write_sector($device, 0, $n)) {
      say_now_and_then("disk-error $n: $!");
      answer_disk($n);
      wait_seconds(0.1);
    }
    say_now_and_then("disk $n");
    wait_seconds(0.01) unless $option{busy};
  }
}

sub answer_disk {
  my ($n) = @_;
  return unless $asked;
  $asked = 0;
  say("disk-report RAM=$n");
}

# The same numbers on two drives: the first is never behind the second, and never more than one ahead.
sub pair {
  my @devices = grep { defined } map { open_drive($_) } '/dev/vda', '/dev/vdb';
  return say('pair none') if @devices < 2;
  for (my $n = 1; ; $n++) {
    for my $device (@devices) {
      until (write_sector($device, MIB, $n)) {
        say_now_and_then("pair-error $n: $!");
        wait_seconds(0.1);
      }
    }
    say_now_and_then("pair $n");
  }
}

# Small files that are written beside and renamed into place, each with its number in every line.
sub ext4 {
  return say('ext4 none') unless read_file('/proc/mounts') =~ m{ /mnt ext4 };
  for (my $n = 1; ; $n++) {
    my $file;
    my $ok = open($file, '>', "/mnt/new-$n") && defined syswrite($file, "$n\n" x (1 + $n % 2000));
    $ok &&= syscall(SYS_FSYNC, fileno $file) == 0 && close($file);
    $ok &&= rename("/mnt/new-$n", '/mnt/file-' . $n % 64);
    say_now_and_then($ok ? "ext4 $n" : "ext4-error $n: $!");
    wait_seconds(0.1) unless $ok;
  }
}

# Writes to every page again and again. Of low priority, so that what is measured is the host and not this.
sub dirty {
  setpriority(0, 0, 19);
  my $bytes = ($option{dirty_mib} // 64) * MIB;
  # Grown at once: the operator x would hold a copy.
  my $memory = '';
  vec($memory, $bytes - 1, 8) = 0;
  for (my $n = 1; ; $n++) {
    my $value = pack 'Q', $n;
    for (my $at = 0; $at < $bytes; $at += PAGE_BYTES) {
      substr($memory, $at, 8) = $value;
    }
  }
}

# Writes to the serial line as much as goes.
sub chatter {
  my $rest = 'x' x 200;
  for (my $n = 1; ; $n++) {
    say("chatter $n $rest");
  }
}

# The longest time between two steps, by the guest's own clock.
sub gap {
  setpriority(0, 0, -20);
  my $longest = 0;
  my $before = monotonic_seconds();
  while (1) {
    wait_seconds(0.001);
    my $now = monotonic_seconds();
    $longest = $now - $before if $now - $before > $longest;
    $before = $now;
    next unless $asked;
    $asked = 0;
    say(sprintf 'gap %.3f', $longest * 1000);
    $longest = 0;
    $before = monotonic_seconds();
  }
}

# --- process 1

sub control {
  my $input = \*STDIN;
  my @buttons = grep { defined } map { open_for_reading($_) } glob_names('/dev/input', qr/^event/);
  my %known;
  watch_drives(\%known);
  wait_for_agent();
  start_modes();
  say('CALOTYPE READY');
  my $line = '';
  my $next_look = 0;
  until (defined $ending) {
    my $readable = '';
    vec($readable, fileno $_, 1) = 1 for $input, @buttons;
    my $count = select($readable, undef, undef, 0.2);
    if ($count > 0) {
      for my $button (grep { vec($readable, fileno $_, 1) } @buttons) {
        sysread($button, my $event, EVENT_BYTES * 64) or next;
        while ($event =~ s/^.{16}(.{8})//s) {
          my ($type, $code, $value) = unpack 'SSl', $1;
          $ending = POWER_OFF if $type == EV_KEY && $code == KEY_POWER && $value == 1;
        }
      }
      if (vec($readable, fileno $input, 1) && sysread($input, my $text, 4096)) {
        $line .= $text;
        obey($1) while $line =~ s/^([^\n]*)\n//;
      }
    }
    my $now = monotonic_seconds();
    next if $now < $next_look;
    $next_look = $now + 0.2;
    watch_drives(\%known);
    forget_ended();
  }
  end($ending);
}

sub start_modes {
  for my $name (grep { exists $modes{$_} } split /,/, $option{mode} // '') {
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
      $SIG{TERM} = $SIG{HUP} = $SIG{INT} = 'DEFAULT';
      $modes{$name}->();
      exit 0;
    }
    $pids{$name} = $pid;
  }
}

# A mode ends only when it finds nothing to work on.
sub forget_ended {
  while ((my $pid = waitpid(-1, 1)) > 0) {
    delete @pids{grep { $pids{$_} == $pid } keys %pids};
  }
}

sub obey {
  my ($command) = @_;
  if (my $mode = $asks{$command}) {
    if (defined $pids{$mode}) { kill 'USR1', $pids{$mode} }
    else { say("$command: mode $mode is off") }
  }
  elsif ($command eq 'poweroff') { $ending = POWER_OFF }
  elsif ($command eq 'panic') { write_file('/proc/sysrq-trigger', 'c') }
  elsif ($command ne '') { say("unknown: $command") }
}

sub watch_drives {
  my ($known) = @_;
  my %there = map { $_ => 1 } drive_names();
  for my $name (sort keys %there) {
    say("drive $name") unless $known->{$name};
  }
  for my $name (sort keys %$known) {
    say("gone $name") unless $there{$name};
  }
  %$known = %there;
}

sub drive_names {
  return sort grep { -e "/dev/$_" } map { m{([^/]+)$} } glob_names('/sys/block', qr/^vd/);
}

# Until it has its port open: from then on it answers.
sub wait_for_agent {
  -e '/run/qemu-ga.pid' or return;
  chomp(my $pid = read_file('/run/qemu-ga.pid'));
  for my $attempt (1 .. 500) {
    for my $descriptor (glob_names("/proc/$pid/fd", qr/^\d/)) {
      return if (readlink($descriptor) // '') =~ /vport/;
    }
    last unless -d "/proc/$pid/fd";
    wait_seconds(0.02);
  }
  say('agent failed: ' . read_file('/run/qemu-ga.log') =~ s/\n/ /gr);
}

# A frozen file system makes sync and umount wait, so that these have a process and a time limit of their own.
sub end {
  my ($how) = @_;
  kill 'KILL', values %pids;
  my $pid = fork;
  if (defined $pid && $pid == 0) {
    my $path = '/mnt';
    # Busy until the processes just killed are gone.
    wait_seconds(0.01) until syscall(SYS_UMOUNT2, $path, 0) == 0 || $! != EBUSY;
    syscall(SYS_SYNC);
    exit 0;
  }
  for my $attempt (1 .. 100) {
    my $done = waitpid(-1, 1);
    last if $done == $pid || $done < 0;
    wait_seconds(0.02) if $done == 0;
  }
  syscall(SYS_REBOOT, 0xfee1dead, 0x28121969, $how, 0);
}

# --- helpers

# One write a line, so that lines of several processes never mix.
sub say {
  syswrite(STDOUT, "$_[0]\n");
}

sub say_now_and_then {
  my $now = monotonic_seconds();
  return if $now - $last_said < SAY_SECONDS;
  $last_said = $now;
  say($_[0]);
}

sub monotonic_seconds {
  my $time = "\0" x 16;
  syscall(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, $time);
  my ($seconds, $nanoseconds) = unpack 'qq', $time;
  return $seconds + $nanoseconds / 1e9;
}

sub wait_seconds {
  select(undef, undef, undef, $_[0]);
}

# Each write is on the disk when it returns.
sub open_drive {
  my ($path) = @_;
  my $device;
  return sysopen($device, $path, O_RDWR | O_DSYNC) ? $device : undef;
}

sub write_sector {
  my ($device, $offset, $text) = @_;
  sysseek($device, $offset, 0);
  return (syswrite($device, sprintf('%-*s', SECTOR_BYTES - 1, $text) . "\n") // 0) == SECTOR_BYTES;
}

sub open_for_reading {
  my ($path) = @_;
  my $file;
  return open($file, '<', $path) ? $file : undef;
}

sub read_file {
  my ($path) = @_;
  my $file = open_for_reading($path) // return '';
  local $/;
  return <$file> // '';
}

sub write_file {
  my ($path, $text) = @_;
  open(my $file, '>', $path) or return;
  syswrite($file, $text);
}

# Perl's own glob is in a module.
sub glob_names {
  my ($directory, $pattern) = @_;
  opendir(my $handle, $directory) or return;
  return map { "$directory/$_" } grep { $_ =~ $pattern } readdir $handle;
}
