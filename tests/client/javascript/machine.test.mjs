// Which computer it is, on three systems: by their files and programs, which are stand-ins here.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { makeHardwareId, readMachine, sameMachine } from '../../../client/javascript/keyledger-client.mjs'
import { LAPTOP, machine, tree } from './standin.mjs'

const linux = async (files, more) => readMachine(machine(await tree(files), more))

test('Linux: the disk under /, cards that are built in', async () => {
  const board = { 'sys/class/dmi/id/product_uuid': '4C4C4544-0042-3510-8054-B9C04F4E5932\n' }
  assert.deepEqual(await linux({ ...LAPTOP, ...board }), {
    machineId: '3d1219c7c4c5404aaa1f6d2a48adfda4',
    board: '4C4C4544-0042-3510-8054-B9C04F4E5932',
    disk: 'S4EWNX0M123456T',
    cards: ['a4:83:e7:01:23:45'],
    failed: [],
  })
})

test('Linux: through a volume and encryption down to the disk', async () => {
  const told = await linux({
    ...LAPTOP,
    'proc/self/mountinfo': '22 1 254:1 / / rw - ext4 /dev/mapper/vg-root rw\n',
    'sys/dev/block/254:1': '-> ../../devices/virtual/dm-1',
    'sys/devices/virtual/dm-1/slaves/dm-0': '-> ../../dm-0',
    'sys/devices/virtual/dm-0/slaves/nvme0n1p2': '-> ../../../pci0/nvme0/nvme0n1/nvme0n1p2',
  })
  assert.equal(told.disk, 'S4EWNX0M123456T')
})

test('Linux: a file system whose number is no disk', async () => {
  const told = await linux({
    ...LAPTOP,
    'proc/self/mountinfo': '22 1 0:23 /@ / rw - btrfs /dev/nvme0n1p2 rw\n',
    'dev/nvme0n1p2': '',
    'sys/class/block/nvme0n1p2': '-> ../../devices/pci0/nvme0/nvme0n1/nvme0n1p2',
  })
  assert.equal(told.disk, 'S4EWNX0M123456T')
})

test('Linux: a Wi-Fi card by its own address, not by that of the day', async () => {
  const told = await linux({
    ...LAPTOP,
    'sys/class/net/eth0/address': 'da:a1:19:00:00:01\n',
    'sys/class/net/eth0/phy80211/macaddress': '3c:7c:3f:aa:bb:cc\n',
  })
  assert.deepEqual(told.cards, ['3c:7c:3f:aa:bb:cc'])
})

test('Linux: virtual disks are none', async () => {
  const model = await linux({
    ...LAPTOP,
    'sys/devices/pci0/nvme0/nvme0n1/device/model': 'Amazon Elastic Block Store\n',
  })
  assert.equal(model.disk, null)
  const name = await linux({
    ...LAPTOP,
    'proc/self/mountinfo': '22 1 254:1 / / rw - ext4 /dev/vda1 rw\n',
    'sys/dev/block/254:1': '-> ../../devices/virtio/vda/vda1',
    'sys/devices/virtio/vda/vda1/partition': '1\n',
    'sys/devices/virtio/vda/device/serial': 'abcdefgh\n',
  })
  assert.equal(name.disk, null)
})

test('Linux: nothing of a container is read', async () => {
  const nothing = { failed: [] }
  assert.deepEqual(await linux({ ...LAPTOP, '.dockerenv': '' }), nothing)
  assert.deepEqual(await linux({ ...LAPTOP, 'run/.containerenv': '' }), nothing)
  assert.deepEqual(await linux({ ...LAPTOP, 'proc/1/cgroup': '0::/kubepods/pod1\n' }), nothing)
  assert.deepEqual(await linux(LAPTOP, { env: { container: 'podman' } }), nothing)
})

test('Linux: nor of a pod, which has no other mark than its root or what Kubernetes tells it', async () => {
  const pod = {
    ...LAPTOP,
    'proc/1/cgroup': '0::/\n',
    'proc/self/mountinfo': '1088 930 0:295 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/var/lib/x\n',
  }
  assert.deepEqual(await linux(pod), { failed: [] })
  assert.deepEqual(await linux(LAPTOP, { env: { KUBERNETES_SERVICE_HOST: '10.96.0.1' } }), { failed: [] })
  const isOnDisk = { 'proc/1/cgroup': '0::/\n' } // as in a container: but its root is a disk
  assert.equal((await linux({ ...LAPTOP, ...isOnDisk })).disk, 'S4EWNX0M123456T')
  const isBooted = { 'proc/self/mountinfo': pod['proc/self/mountinfo'] } // an overlay under systemd: a live system
  assert.deepEqual((await linux({ ...LAPTOP, ...isBooted })).cards, ['a4:83:e7:01:23:45'])
})

test('Linux: of WSL its machine id alone', async () => {
  const told = await linux({ ...LAPTOP, 'proc/sys/kernel/osrelease': '5.15.90.1-microsoft-standard-WSL2\n' })
  assert.deepEqual(told, { machineId: '3d1219c7c4c5404aaa1f6d2a48adfda4', failed: [] })
})

const IOREG = `+-o J313AP  <class IOPlatformExpertDevice, id 0x10000023d, registered>
    {
      "IOPlatformSerialNumber" = "C02XL0GYJGH5"
      "IOPlatformUUID" = "564D7C2F-8E1A-5B3C-9F40-1234567890AB"
      "manufacturer" = <"Apple Inc.">
    }
`
const PORTS = `
Hardware Port: Ethernet Adapter (en4)
Device: en4
Ethernet Address: 3c:7c:3f:00:00:04

Hardware Port: Wi-Fi
Device: en0
Ethernet Address: a4:83:e7:01:23:45

Hardware Port: Thunderbolt Bridge
Device: bridge0
Ethernet Address: 36:4b:9d:00:00:00

Hardware Port: USB 10/100/1000 LAN
Device: en7
Ethernet Address: 3c:7c:3f:00:00:07

VLAN Configurations
===================
`

test('macOS: ioreg and networksetup', async () => {
  const asked = []
  const run = async (file, args) => {
    asked.push([file, ...args].join(' '))
    return file.endsWith('ioreg') ? IOREG : PORTS
  }
  assert.deepEqual(await readMachine({ platform: 'darwin', env: {}, run }), {
    machineId: '564D7C2F-8E1A-5B3C-9F40-1234567890AB',
    board: 'C02XL0GYJGH5',
    disk: null,
    cards: ['3c:7c:3f:00:00:04', 'a4:83:e7:01:23:45'],
    failed: [],
    again: false,
  })
  assert.deepEqual(asked.sort(), [
    '/usr/sbin/ioreg -rd1 -c IOPlatformExpertDevice',
    '/usr/sbin/networksetup -listallhardwareports',
  ])
})

const GUID = '9f2d6c1e-7b1a-4f0e-9c55-3c6a1d2e8f70'
const registry = (key, name, value) => `\r\nHKEY_LOCAL_MACHINE\\${key}\r\n    ${name}    REG_SZ    ${value}\r\n\r\n`
const WINDOWS = {
  MachineGuid: registry('SOFTWARE\\Microsoft\\Cryptography', 'MachineGuid', GUID),
  LastConfig: registry('SYSTEM\\HardwareConfig', 'LastConfig', '{4c4c4544-0042-3510-8054-b9c04f4e5932}'),
  '-Command': 'disk=S4EWNX0M123456T\r\nmodel=Samsung SSD 970\r\ncard=A4:83:E7:01:23:45\r\ncard=3C:7C:3F:AA:BB:CC\r\n',
}

function windows(told, asked = []) {
  const run = async (file, args) => {
    asked.push([file, ...args.filter((arg) => !arg.includes(';'))].join(' '))
    const name = Object.keys(told).find((word) => args.includes(word))
    if (told[name] === undefined) throw new Error('timed out')
    return told[name]
  }
  return { platform: 'win32', env: { SystemRoot: 'C:\\WINDOWS' }, run }
}

test('Windows: the registry, and what PowerShell knows of disk and cards', async () => {
  const asked = []
  assert.deepEqual(await readMachine(windows(WINDOWS, asked)), {
    machineId: GUID,
    board: '{4c4c4544-0042-3510-8054-b9c04f4e5932}',
    disk: 'S4EWNX0M123456T',
    cards: ['A4:83:E7:01:23:45', '3C:7C:3F:AA:BB:CC'],
    failed: [],
    again: false,
  })
  // By their whole paths: a program of the same name beside the app is never started.
  assert.deepEqual(asked, [
    'C:\\WINDOWS\\System32\\reg.exe query HKLM\\SOFTWARE\\Microsoft\\Cryptography /v MachineGuid /reg:64',
    'C:\\WINDOWS\\System32\\reg.exe query HKLM\\SYSTEM\\HardwareConfig /v LastConfig /reg:64',
    'C:\\WINDOWS\\System32\\WindowsPowerShell\\v1.0\\powershell.exe -NoProfile -NonInteractive -Command',
  ])
})

test('Windows: a disk of a virtual machine is none', async () => {
  const virtual = { ...WINDOWS, '-Command': 'disk=6000c29a1b2c\r\nmodel=VMware Virtual disk\r\n' }
  assert.deepEqual((await readMachine(windows(virtual))).disk, null)
})

test('a program that was too slow says nothing about the computer', async () => {
  const told = await readMachine(windows({ ...WINDOWS, '-Command': undefined }))
  assert.deepEqual(told, {
    machineId: GUID,
    board: '{4c4c4544-0042-3510-8054-b9c04f4e5932}',
    disk: null,
    cards: [],
    failed: ['disk', 'cards'],
    again: true,
  })
})

test('a program that is forbidden is not waited for; a value that is not there is no failure', async () => {
  for (const code of ['ENOENT', 'EACCES', 'UNKNOWN']) {
    const system = windows(WINDOWS)
    const forbidden = { ...system, run: (_, args) => (args[0] === 'query' ? system.run(_, args) : failing(code)) }
    const told = await readMachine(forbidden)
    assert.deepEqual([told.failed, told.again], [['disk', 'cards'], false], code)
  }
  const system = windows(WINDOWS)
  const without = { ...system, run: (_, args) => (args.includes('LastConfig') ? failing(1) : system.run(_, args)) }
  const { board, failed } = await readMachine(without)
  assert.deepEqual([board, failed], [null, []])
})

const failing = (code) => Promise.reject(Object.assign(new Error('as execFile tells it'), { code }))

test('Windows: what cannot be asked for is told apart from what is not there', async () => {
  const told = await readMachine(windows({ ...WINDOWS, '-Command': 'failed=disk\r\ncard=A4:83:E7:01:23:45\r\n' }))
  assert.deepEqual([told.disk, told.cards, told.failed], [null, ['A4:83:E7:01:23:45'], ['disk']])
  const nothing = await readMachine(windows({ ...WINDOWS, '-Command': 'disk=\r\nmodel=\r\n' }))
  assert.deepEqual([nothing.disk, nothing.cards, nothing.failed], [null, [], []])
})

test('this computer is read without an error, and is the same twice', async () => {
  const [one, two] = [await readMachine(), await readMachine()].map((told) => makeHardwareId('wave', told))
  assert.equal(one, two)
  if (one) assert.ok(sameMachine(one, two))
})
