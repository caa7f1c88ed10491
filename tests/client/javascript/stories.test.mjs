// The stories of ../../../client/vectors/stories.json: the Python client tells the same.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, beforeEach, test } from 'node:test'
import { LicenseClient } from '../../../client/javascript/keyledger-client.mjs'
import { LAPTOP, OTHERS, StandIn, answer, folder, machine, signatureOf, signer, status, tree } from './standin.mjs'

const told = JSON.parse(readFileSync(new URL('../../../client/vectors/stories.json', import.meta.url), 'utf8'))
const key = signer(Buffer.from(told.private_key, 'base64'))
const [publicKey] = Object.values(told.public_keys)
let server
let laptop
let earlier = new Map()

before(async () => {
  server = await new StandIn().start()
  laptop = machine(await tree(LAPTOP))
})
after(() => server.stop())
beforeEach(() => earlier.clear())

const verbOf = (request) => request.url.split('/').pop()
const INSTEAD = {
  silent: status(500),
  page: status(200, { 'Content-Type': 'text/html' }, '<!doctype html><title>Welcome to our hotel</title>'),
  redirect: status(302, { Location: '/sign-in' }, ''),
  unsigned: (_, response, { text }) => answer(response, { text, headers: {} }),
  altered: (_, response, { text, headers }) => answer(response, { text: text.replace('"pro"', '"ace"'), headers }),
  forged: (request, response, { text }) =>
    answer(response, { text, headers: signatureOf(text, request.url, server.clock, OTHERS) }),
  replayed: (request, response) => answer(response, earlier.get(verbOf(request)) ?? [...earlier.values()][0]),
}
const asUsual = (request, response, signed) => {
  if (!earlier.has(verbOf(request))) earlier.set(verbOf(request), signed)
  answer(response, signed)
}

for (const { name, steps } of told.cases) {
  test(name, async () => {
    const stateDir = await folder()
    for (const [number, step] of steps.entries()) {
      const code = INSTEAD[step.server] ? 'VALID' : step.server
      Object.assign(server, { key, code, clock: Date.parse(step.at), always: INSTEAD[step.server] ?? asUsual })
      const options = { server: server.url, product: 'wave', publicKey, stateDir, deviceName: 'PC', system: laptop }
      const client = new LicenseClient({ ...options, clock: () => Date.parse(step.clock) })
      const { valid, state, code: said, graceEnd } = await does(client, step)
      assert.deepEqual({ valid, state, code: said, grace_end: graceEnd }, step.expect, `step ${number + 1}: ${step.do}`)
    }
  })
}

function does(client, step) {
  if (step.do === 'activate') return client.activate(step.license_key)
  return step.do === 'install' ? client.installFile(step.file) : client[step.do]()
}
