// Against a real server, which the suite starts: its address, its key and what was sold come in the environment.

import assert from 'node:assert/strict'
import { promises as fs } from 'node:fs'
import { test } from 'node:test'
import { LicenseClient } from '../../../client/javascript/keyledger-client.mjs'
import { LAPTOP, folder, machine, tree } from './standin.mjs'

const { server, nobody, publicKey, ownerKey, sold } = JSON.parse(process.env.LIVE)
const [key, refundedKey, teamKey] = sold
const DESKTOP = {
  'etc/machine-id': '9f2d6c1e7b1a4f0e9c553c6a1d2e8f70\n',
  'sys/devices/pci0/nvme0/nvme0n1/device/serial': 'WD-WX11A1234567\n',
  'sys/class/net/eth0/address': '3c:7c:3f:aa:bb:cc\n',
}

async function clientOf(files = {}, more = {}) {
  const system = machine(await tree({ ...LAPTOP, ...files }))
  return new LicenseClient({
    server,
    product: 'wave',
    publicKey,
    stateDir: await folder(),
    deviceName: 'Laptop',
    system,
    ...more,
  })
}

const owner = (verb, body = {}) =>
  fetch(`${server}/api/v1/licenses/${key}/${verb}`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${ownerKey}`, 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  }).then((response) => assert.equal(response.status, 200))

async function idOf(client) {
  const lines = (await client.deviceCode()).trim().split('\n').slice(1, -1)
  return JSON.parse(Buffer.from(lines.join(''), 'base64')).hardware_id
}

const short = ({ valid, state, code }) => [valid, state, code]

test('a seat, its end, and the way back', async () => {
  const [stateDir, laptop] = [await folder(), await tree(LAPTOP)]
  const [client, desktop] = [await clientOf({}, { stateDir }), await clientOf(DESKTOP)]
  const first = await client.activate(` ${key.toLowerCase()} `)
  assert.deepEqual([...short(first), first.activated, first.features], [true, 'valid', 'VALID', true, ['batch']])
  assert.equal(Date.parse(first.graceEnd) > Date.now(), true)
  const refused = await desktop.activate(key)
  assert.deepEqual(short(refused), [false, 'denied', 'TOO_MANY_MACHINES'])
  assert.match(refused.message, /\(1 of 1\)/)
  assert.match(refused.helpUrl, /^http.*\/portal/)
  assert.deepEqual(short(await client.validate()), [true, 'valid', 'VALID'])

  await owner('reset-devices') // as `release this device` in the portal
  assert.deepEqual(short(await client.validate()), [false, 'denied', 'FINGERPRINT_SCOPE_MISMATCH'])
  assert.deepEqual(short(await desktop.activate(key)), [true, 'valid', 'VALID'])
  assert.equal((await desktop.deactivate()).code, 'DEACTIVATED')
  assert.deepEqual(short(await client.activate(key)), [true, 'valid', 'VALID'])

  await owner('suspend', { note: 'a test' })
  assert.deepEqual(short(await client.validate()), [false, 'denied', 'SUSPENDED'])
  const system = machine(laptop)
  const off = await clientOf({}, { stateDir, system, server: nobody })
  assert.deepEqual(short(await off.validate()), [false, 'denied', 'SUSPENDED'])
  await owner('reinstate', { note: 'a test' })
  assert.deepEqual(short(await client.validate()), [true, 'valid', 'VALID'])
  assert.deepEqual(short(await off.validate()), [true, 'grace', 'VALID'])
})

test('what was refunded, what is of another product, what nobody sold', async () => {
  const client = await clientOf()
  assert.deepEqual(short(await client.activate(refundedKey)), [false, 'denied', 'SUSPENDED'])
  assert.deepEqual(short(await client.activate(teamKey)), [false, 'denied', 'PRODUCT_SCOPE_MISMATCH'])
  assert.deepEqual(short(await client.activate('NO-SUCH-KEY')), [false, 'denied', 'NOT_FOUND'])
  assert.deepEqual(short(await client.status()), [false, 'unlicensed', 'UNLICENSED'])
})

test('another server is not believed', async () => {
  const client = await clientOf({}, { publicKey: Buffer.alloc(32, 7).toString('base64') })
  const result = await client.activate(key)
  assert.deepEqual([...short(result), result.detail], [false, 'unreachable', 'UNSIGNED', 'UNKNOWN_KEY'])
})

test('a file that the server made is installed elsewhere', async () => {
  const client = await clientOf({}, { product: 'team' })
  const made = await client.activate(teamKey)
  assert.deepEqual([...short(made), made.productName], [true, 'valid', 'VALID', 'Team'])
  const other = await clientOf({}, { product: 'team' })
  const asked = { license_key: teamKey, hardware_id: await idOf(client), product: 'team' }
  const told = await fetch(`${server}/api/v1/licenses/file`, { method: 'POST', body: JSON.stringify(asked) })
  const file = (await told.json()).license_file
  assert.deepEqual(short(await other.installFile(file)), [true, 'valid', 'VALID'])
  const elsewhere = await clientOf(DESKTOP, { product: 'team' })
  assert.equal((await elsewhere.installFile(file)).code, 'OTHER_DEVICE')
})

test('neither key nor file in what is printed', async () => {
  const printed = []
  const streams = [process.stdout, process.stderr].map((stream) => [stream, stream.write])
  for (const [stream] of streams) stream.write = (text) => printed.push(String(text))
  const stateDir = await folder()
  try {
    const client = await clientOf({}, { stateDir })
    for (const typed of [key, refundedKey]) await client.activate(typed)
    await client.validate()
  } finally {
    for (const [stream, write] of streams) stream.write = write
  }
  assert.equal(printed.join('').includes(key), false)
  assert.equal((await fs.readdir(stateDir)).length, 2)
})
