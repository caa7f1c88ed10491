// The vectors that every client must pass.

import assert from 'node:assert/strict'
import { webcrypto } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import * as kit from '../../../client/javascript/keyledger-client.mjs'

const read = (name) =>
  JSON.parse(readFileSync(new URL(`../../../client/vectors/${name}.json`, import.meta.url), 'utf8'))
const keysOf = (told) => new Map(Object.entries(told).map(([kid, key]) => [kid, Buffer.from(key, 'base64')]))
const bytes = (text) => Buffer.from(text, 'hex')

test('Ed25519', async () => {
  for (const { name, public_key, message, signature, valid } of read('ed25519').cases) {
    assert.equal(await kit.verifyEd25519(bytes(public_key), bytes(message), bytes(signature)), valid, name)
  }
})

test('where Web Crypto has no Ed25519, Node has it', async () => {
  const { subtle } = webcrypto
  subtle.importKey = async () => {
    throw new DOMException('Unrecognized algorithm name', 'NotSupportedError')
  }
  try {
    for (const { name, public_key, message, signature, valid } of read('ed25519').cases) {
      assert.equal(await kit.verifyEd25519(bytes(public_key), bytes(message), bytes(signature)), valid, name)
    }
  } finally {
    delete subtle.importKey
  }
})

test('signed answers', async () => {
  const { public_keys, cases } = read('signed_answers')
  for (const { name, request, answer, now, expect, code, clock_off, valid } of cases) {
    const seen = { ...answer, body: Buffer.from(answer.body) }
    const told = await kit.checkAnswer(request, seen, keysOf(public_keys), Date.parse(now))
    assert.equal(told.result, expect, name)
    if (expect !== 'BELIEVED') assert.equal(told.verdict, undefined, name)
    else assert.deepEqual([told.verdict.code, told.verdict.valid, told.clockOff], [code, valid, clock_off], name)
  }
})

test('license files', async () => {
  const { public_keys, cases } = read('license_files')
  for (const { name, file, product, hardware_id, license_key, now, expect, says } of cases) {
    const here = { product, machine: hardware_id, licenseKey: license_key }
    const told = await kit.checkLicenseFile(file, keysOf(public_keys), here, Date.parse(now))
    assert.equal(told.result, expect, name)
    if (expect === 'GOOD') assert.deepEqual(told.says, says, name)
  }
})

test('spellings of a key', () => {
  for (const { typed, key_prefix, license_ids } of read('key_spellings').cases) {
    assert.deepEqual(kit.licenseIds(typed, key_prefix), license_ids, typed)
  }
})

test('device codes', () => {
  for (const { about, hardware_id, device_name, product, code } of read('device_codes').good) {
    assert.equal(kit.makeDeviceCode(hardware_id, device_name, product), code, about)
  }
})

test('hardware ids', () => {
  const { ids, pairs } = read('hardware_ids')
  for (const { why, product, machine_id: machineId, board, disk, cards, installation, id } of ids) {
    assert.equal(kit.makeHardwareId(product, { machineId, board, disk, cards, installation }), id, why)
  }
  for (const { why, one, other, same } of pairs) {
    assert.equal(kit.sameMachine(one, other), same, why)
    assert.equal(kit.sameMachine(other, one), same, why)
  }
})
