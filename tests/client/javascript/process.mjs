// One of several processes that share a state folder.

import { LicenseClient } from '../../../client/javascript/keyledger-client.mjs'
import { NOW, OURS, machine } from './standin.mjs'

const [server, stateDir, root, key] = process.argv.slice(2)
for (let time = 0; time < 6; time++) {
  const options = { server, product: 'wave', publicKey: OURS.publicKey, stateDir, clock: () => NOW + time * 1000 }
  const client = new LicenseClient({ ...options, system: machine(root) })
  const results = [await client.activate(key), await client.validate(), await client.status()]
  if (results.some((result) => !result.valid)) process.exit(1)
}
